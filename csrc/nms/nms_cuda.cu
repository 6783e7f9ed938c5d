#include "common/cuda_kernel.h"
#include "nms/tiles.h"

// The kernels of one call, in this order: gather_sorted; for each panel mark_pairs and resolve_panel, or once for Fast
// NMS mark_by_all; scatter_kept; with owners limit_owners; list_kept. Nothing is read back in between. All are
// deterministic: every word has one writer, and there are no atomics.

namespace maskrcnn_ops {
namespace {

constexpr int threads = 256;
constexpr int resolving_threads = 1024;
constexpr int in_flight = 8;  // loads that a resolving thread waits for together
constexpr int strands = 4;    // columns that a block of mark_by_all takes at the same time
constexpr unsigned whole_warp = 0xffffffffu;

// One thread gathers one box, and its group, into its place. A warp writes which of its 32 boxes are unusable (NaN, a
// low score, not there): half of a word of `suppressed`, so that they are neither kept nor suppress; and that none is
// kept yet. The words' last bits, behind the last box, are written too.
template <class C, class S>
__global__ void __launch_bounds__(threads)
    gather_sorted(NmsSizes sizes, NmsInputs<C, S> inputs, ScoreFloor<S> floor, NmsWork<C> work) {
  const int64_t padded = sizes.tiles(nullptr).blocks() * nms_block;
  auto* suppressed = reinterpret_cast<uint32_t*>(work.suppressed);
  auto* kept = reinterpret_cast<uint32_t*>(work.kept);
  for (int64_t q = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x; q < sizes.images * padded;
       q += static_cast<int64_t>(gridDim.x) * threads) {
    const int64_t image = q / padded, p = q % padded, first = image * sizes.count;
    bool unusable = false;
    if (p < sizes.count) {
      const int64_t i = inputs.places[first + p];
      const Box<C> box = load_box(inputs.boxes + 4 * (first + i));
      work.sorted[first + p] = box;
      if (inputs.groups != nullptr) work.sorted_groups[first + p] = group_at(inputs, first, p);
      unusable = has_nan(box) || !floor.passes(inputs.scores[first + i]) ||
                 (inputs.counts != nullptr && i >= inputs.counts[image]);
    }
    if (p == 0) work.listed[image] = 0;
    // `padded` is a multiple of 64, so the warp is whole.
    const unsigned bits = __ballot_sync(whole_warp, unusable);
    if (threadIdx.x % 32 == 0) suppressed[q / 32] = bits, kept[q / 32] = 0;
  }
}

// A block computes the words of 64 places against one block of columns: a thread one word. The columns' boxes are in
// shared memory, read by all threads at the same time (broadcast). Places suppressed already, and images with all the
// boxes they may keep, need no words: nothing reads them. Bound by arithmetic, some 15 operations a pair; the division
// is rare.
template <class C>
__global__ void __launch_bounds__(nms_block)
    mark_pairs(NmsSizes sizes, NmsTiles all_images, NmsPanel panel, NmsRule<C> rule, NmsWork<C> work) {
  __shared__ NmsColumn<C> columns[nms_block];
  const int64_t blocks = all_images.blocks(), tiles_an_image = panel.count(all_images), limit = sizes.limit();
  for (int64_t item = blockIdx.x; item < sizes.images * tiles_an_image; item += gridDim.x) {
    const int64_t image = item / tiles_an_image, tile = item % tiles_an_image;
    const NmsTiles tiles = all_images.of_image(image);
    const Box<C>* sorted = work.sorted + image * sizes.count;
    const int64_t row = panel.row(tiles, tile), column = panel.column(tiles, tile);
    // Alike for all threads of the block.
    if (column < row || !tiles.meet(row, column) || work.listed[image] >= limit) continue;
    const int t = threadIdx.x;
    __syncthreads();  // the previous tile's columns have been read
    if (t < tiles.block_size(column)) columns[t] = nms_column(sorted[column * nms_block + t], rule);
    __syncthreads();
    if (t >= tiles.block_size(row) || (work.suppressed[image * blocks + row] >> t & 1)) continue;
    const int64_t place = row * nms_block + t;
    work.words[image * panel.words_an_image(tiles) + panel.word(tiles, place, column)] =
        suppression_word(tiles, place, nms_column(sorted[place], rule), column, columns, rule);
  }
}

// One block of threads for each run of rows of each image, since within a run blocks of places must be resolved one
// after the other. Of each, one thread resolves the 64 places among themselves (64 steps on a register); then every
// thread takes its words right of the diagonal and adds what the kept places suppress, consecutive threads consecutive
// words.
template <class C>
__global__ void __launch_bounds__(resolving_threads)
    resolve_panel(NmsSizes sizes, NmsTiles all_images, NmsPanel panel, NmsWork<C> work) {
  __shared__ uint64_t diagonal[nms_block];
  __shared__ uint64_t kept_here;
  const int64_t blocks = all_images.blocks(), rows = panel.last - panel.first, limit = sizes.limit();
  const int64_t image = blockIdx.x / rows, begin = panel.first + blockIdx.x % rows;
  const NmsTiles tiles = all_images.of_image(image);
  if (!panel.begins_run(tiles, begin)) return;
  const uint64_t* words = work.words + image * panel.words_an_image(tiles);
  uint64_t* suppressed = work.suppressed + image * blocks;
  int64_t listed = work.listed[image];  // matters with a limit only; the image then has one run
  for (int64_t row = begin; row < panel.last && listed < limit; ++row) {
    if (row > begin && panel.begins_run(tiles, row)) break;
    const int size = tiles.block_size(row);
    if (threadIdx.x < size) {
      const int64_t place = row * nms_block + threadIdx.x;
      const bool written = !(suppressed[row] >> threadIdx.x & 1);  // more may be written, but what is needed is
      diagonal[threadIdx.x] = written ? words[panel.word(tiles, place, row)] : 0;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      kept_here = kept_in_block(suppressed[row], diagonal, size, limit - listed);
      work.kept[image * blocks + row] = kept_here;
    }
    __syncthreads();
    const uint64_t mine = kept_here;
    listed += __popcll(mine);
    for (int64_t column = row + 1 + threadIdx.x; column < blocks && tiles.meet(row, column) && listed < limit;
         column += resolving_threads) {
      uint64_t word = suppressed[column];
      const uint64_t* below = words + panel.word(tiles, row * nms_block, column);
#pragma unroll 1
      for (int first = 0; first < nms_block; first += in_flight) {
        uint64_t found[in_flight];
#pragma unroll
        for (int j = 0; j < in_flight; ++j) {
          found[j] = mine >> (first + j) & 1 ? *below : 0;
          below += blocks;
        }
#pragma unroll
        for (int j = 0; j < in_flight; ++j) word |= found[j];
      }
      suppressed[column] = word;
    }
    __syncthreads();  // the next row's word is complete, and `diagonal` and `kept_here` have been read
  }
  if (limit < sizes.count && threadIdx.x == 0) work.listed[image] = listed;
}

// Fast NMS: a block decides 64 places of one image, each against all places before it; no matrix, no order to keep to.
// The places are dealt to 64 threads of each of four strands, and a strand takes every fourth block of columns.
template <class C>
__global__ void __launch_bounds__(strands* nms_block)
    mark_by_all(NmsSizes sizes, NmsTiles all_images, NmsRule<C> rule, NmsWork<C> work) {
  __shared__ NmsColumn<C> columns[strands][nms_block];
  __shared__ int dropped[nms_block];
  const int64_t blocks = all_images.blocks();
  const int t = threadIdx.x % nms_block, strand = threadIdx.x / nms_block;
  for (int64_t item = blockIdx.x; item < sizes.images * blocks; item += gridDim.x) {
    const int64_t image = item / blocks, row = item % blocks, place = row * nms_block + t;
    const NmsTiles tiles = all_images.of_image(image);
    const Box<C>* sorted = work.sorted + image * sizes.count;
    const uint64_t* suppressed = work.suppressed + image * blocks;
    bool hit = t >= tiles.block_size(row) || (suppressed[row] >> t & 1);
    const NmsColumn<C> mine = hit ? NmsColumn<C>{} : nms_column(sorted[place], rule);
    if (strand == 0) dropped[t] = hit;
    for (int64_t first = 0; first <= row; first += strands) {
      const int64_t column = first + strand;
      const bool needed = column <= row && tiles.meet(column, row);
      __syncthreads();  // the previous columns have been read
      if (needed && t < tiles.block_size(column)) columns[strand][t] = nms_column(sorted[column * nms_block + t], rule);
      __syncthreads();
      if (needed && !hit) hit = dropped_by_block(tiles, place, mine, column, suppressed[column], columns[strand], rule);
    }
    __syncthreads();
    if (hit) dropped[t] = 1;  // by several strands, all the same value
    __syncthreads();
    const unsigned bits = __ballot_sync(whole_warp, !dropped[t]);
    if (strand == 0 && t % 32 == 0) reinterpret_cast<uint32_t*>(work.kept)[2 * (image * blocks + row) + t / 32] = bits;
    __syncthreads();  // `dropped` has been read
  }
}

// One thread tells one box whether it is kept.
template <class C>
__global__ void __launch_bounds__(threads)
    scatter_kept(NmsSizes sizes, const int64_t* __restrict__ places, NmsWork<C> work) {
  const int64_t blocks = sizes.tiles(nullptr).blocks();
  for (int64_t q = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x; q < sizes.images * sizes.count;
       q += static_cast<int64_t>(gridDim.x) * threads) {
    const int64_t image = q / sizes.count, p = q % sizes.count;
    work.keep[image * sizes.count + places[q]] = work.kept[image * blocks + p / nms_block] >> p % nms_block & 1;
  }
}

// A warp looks for the first places of owners among 32 places, and walks through the boxes of each owner it finds:
// beyond the most that an owner may keep, none is kept.
__global__ void __launch_bounds__(threads) limit_owners(NmsListing listing, uint8_t* __restrict__ keep, int64_t count) {
  const int lane = threadIdx.x % 32;
  auto owner_at = [&](int64_t p) { return listing.owners[listing.by_owner[p]]; };
  for (int64_t start = (static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x) / 32 * 32; start < count;
       start += static_cast<int64_t>(gridDim.x) * threads) {
    const int64_t here = start + lane;
    unsigned heads = __ballot_sync(whole_warp, here < count && (here == 0 || owner_at(here) != owner_at(here - 1)));
    for (; heads != 0; heads &= heads - 1) {
      const int64_t head = start + __ffs(heads) - 1, owner = owner_at(head);
      int64_t listed = 0;
      for (int64_t p = head;; p += 32) {
        const bool mine = p + lane < count && owner_at(p + lane) == owner;
        const int64_t i = mine ? listing.by_owner[p + lane] : 0;
        const unsigned bits = __ballot_sync(whole_warp, mine && keep[i]);
        if (mine && listed + __popc(bits & ((1u << lane) - 1)) >= listing.most) keep[i] = 0;
        listed += __popc(bits);
        if (!__all_sync(whole_warp, mine)) break;
      }
    }
  }
}

// One block lists the kept boxes of an image by descending score, 1024 at a time; a thread's place is the number of
// kept boxes in warps before its own and in lanes before it. Behind the last comes -1.
__global__ void __launch_bounds__(resolving_threads)
    list_kept(NmsSizes sizes, const uint8_t* __restrict__ keep, const int64_t* __restrict__ by_score,
              int64_t* __restrict__ indices, int64_t* __restrict__ kept) {
  __shared__ int in_warp[resolving_threads / 32];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int64_t image = blockIdx.x; image < sizes.images; image += gridDim.x) {
    int64_t listed = 0;
    int64_t* result = indices + image * sizes.room;
    for (int64_t start = 0; start < sizes.count && listed < sizes.room; start += resolving_threads) {
      const int64_t p = start + threadIdx.x;
      const int64_t i = p < sizes.count ? by_score[image * sizes.count + p] : 0;
      const bool is_kept = p < sizes.count && keep[image * sizes.count + i];
      const unsigned bits = __ballot_sync(whole_warp, is_kept);
      if (lane == 0) in_warp[warp] = __popc(bits);
      __syncthreads();
      int before = __popc(bits & ((1u << lane) - 1)), all = 0;
      for (int w = 0; w < resolving_threads / 32; ++w) {
        if (w < warp) before += in_warp[w];
        all += in_warp[w];
      }
      if (is_kept && listed + before < sizes.room) result[listed + before] = i;
      listed += all;
      __syncthreads();  // `in_warp` has been read
    }
    listed = listed < sizes.room ? listed : sizes.room;
    for (int64_t k = listed + threadIdx.x; k < sizes.room; k += resolving_threads) result[k] = -1;
    if (threadIdx.x == 0) kept[image] = listed;
  }
}

}  // namespace

template <class C, class S>
int nms_cuda(const NmsSizes& sizes, const NmsInputs<C, S>& inputs, const NmsListing& listing,
             const NmsOptions<C, S>& options, const NmsWork<C>& work, int64_t* indices, int64_t* kept, void* stream) {
  const auto s = static_cast<cudaStream_t>(stream);
  const NmsTiles tiles = sizes.tiles(inputs.groups == nullptr ? nullptr : work.sorted_groups);
  const int64_t blocks = tiles.blocks();
  const unsigned grid = grid_of((sizes.images * blocks * nms_block + threads - 1) / threads);
  gather_sorted<<<grid, threads, 0, s>>>(sizes, inputs, options.floor, work);
  if (options.by_all) {
    mark_by_all<<<grid_of(sizes.images * blocks), strands * nms_block, 0, s>>>(sizes, tiles, options.rule, work);
  } else {
    const int64_t rows = sizes.rows();
    for (int64_t first = 0; first < blocks; first += rows) {
      const NmsPanel panel{first, std::min(first + rows, blocks), rows};
      mark_pairs<<<grid_of(sizes.images * panel.count(tiles)), nms_block, 0, s>>>(sizes, tiles, panel, options.rule,
                                                                                  work);
      const auto runs = static_cast<unsigned>(sizes.images * (panel.last - panel.first));  // at most: one block each
      resolve_panel<<<runs, resolving_threads, 0, s>>>(sizes, tiles, panel, work);
    }
  }
  scatter_kept<<<grid, threads, 0, s>>>(sizes, inputs.places, work);
  if (listing.by_owner != nullptr) limit_owners<<<grid, threads, 0, s>>>(listing, work.keep, sizes.count);
  list_kept<<<grid_of(sizes.images), resolving_threads, 0, s>>>(sizes, work.keep, listing.by_score, indices, kept);
  return cudaGetLastError();
}

#define INSTANTIATE(C, S)                                                                                    \
  template int nms_cuda(const NmsSizes&, const NmsInputs<C, S>&, const NmsListing&, const NmsOptions<C, S>&, \
                        const NmsWork<C>&, int64_t*, int64_t*, void*);
INSTANTIATE(float, float)
INSTANTIATE(float, double)
INSTANTIATE(double, float)
INSTANTIATE(double, double)

}  // namespace maskrcnn_ops
