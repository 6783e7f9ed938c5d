#include "common/cuda_kernel.h"
#include "nms/tiles.h"

// The kernels of one call, in this order: gather_sorted; for each panel mark_pairs and resolve_panel; scatter_kept;
// list_kept. Nothing is read back in between. All are deterministic: every word has one writer, and there are no
// atomics.

namespace maskrcnn_ops {
namespace {

constexpr int threads = 256;
constexpr int resolving_threads = 1024;
constexpr int in_flight = 8;  // loads that a resolving thread waits for together
constexpr unsigned whole_warp = 0xffffffffu;

// One thread gathers one box into its place. A warp writes which of its 32 boxes are unusable (NaN in coordinates or
// score): half of a word of `suppressed`, so that they are neither kept nor suppress. The words' last bits, behind the
// last box, are written too.
template <class C, class S>
__global__ void __launch_bounds__(threads)
    gather_sorted(const C* __restrict__ boxes, const S* __restrict__ scores, const int64_t* __restrict__ order,
                  Box<C>* __restrict__ sorted, uint32_t* __restrict__ suppressed, int64_t count, int64_t padded) {
  for (int64_t p = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x; p < padded;
       p += static_cast<int64_t>(gridDim.x) * threads) {
    bool unusable = false;
    if (p < count) {
      const int64_t i = order[p];
      const Box<C> box = load_box(boxes + 4 * i);
      sorted[p] = box;
      unusable = has_nan(box) || scores[i] != scores[i];
    }
    // `padded` is a multiple of 64, so the warp is whole.
    const unsigned bits = __ballot_sync(whole_warp, unusable);
    if (threadIdx.x % 32 == 0) suppressed[p / 32] = bits;
  }
}

// A block computes the words of 64 places against one block of columns: a thread one word. The columns' boxes are in
// shared memory, read by all threads at the same time (broadcast). Places suppressed already need no words: nothing
// reads them. Bound by arithmetic, some 15 operations a pair; the division is rare.
template <class C>
__global__ void __launch_bounds__(nms_block)
    mark_pairs(const Box<C>* __restrict__ sorted, const uint64_t* __restrict__ suppressed, uint64_t* __restrict__ words,
               NmsTiles tiles, NmsPanel panel, NmsRule<C> rule) {
  __shared__ NmsColumn<C> columns[nms_block];
  for (int64_t tile = blockIdx.x; tile < panel.count(tiles); tile += gridDim.x) {
    const int64_t row = panel.row(tiles, tile), column = panel.column(tiles, tile);
    if (column < row || !tiles.meet(row, column)) continue;  // alike for all threads of the block
    const int t = threadIdx.x;
    __syncthreads();  // the previous tile's columns have been read
    if (t < tiles.block_size(column)) columns[t] = nms_column(sorted[column * nms_block + t], rule);
    __syncthreads();
    if (t >= tiles.block_size(row) || (suppressed[row] >> t & 1)) continue;
    const int64_t place = row * nms_block + t;
    words[panel.word(tiles, place, column)] =
        suppression_word(tiles, place, nms_column(sorted[place], rule), column, columns, rule);
  }
}

// One block of threads for the whole panel, since blocks of places must be resolved one after the other. Of each, one
// thread resolves the 64 places among themselves (64 steps on a register); then every thread takes its words right of
// the diagonal and adds what the kept places suppress, consecutive threads consecutive words.
__global__ void __launch_bounds__(resolving_threads)
    resolve_panel(const uint64_t* __restrict__ words, uint64_t* suppressed, uint64_t* __restrict__ kept, NmsTiles tiles,
                  NmsPanel panel) {
  __shared__ uint64_t diagonal[nms_block];
  __shared__ uint64_t kept_here;
  for (int64_t row = panel.first; row < panel.last; ++row) {
    const int size = tiles.block_size(row);
    if (threadIdx.x < size) {
      const int64_t place = row * nms_block + threadIdx.x;
      const bool written = !(suppressed[row] >> threadIdx.x & 1);  // more may be written, but what is needed is
      diagonal[threadIdx.x] = written ? words[panel.word(tiles, place, row)] : 0;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      kept_here = kept_in_block(suppressed[row], diagonal, size);
      kept[row] = kept_here;
    }
    __syncthreads();
    const uint64_t mine = kept_here;
    for (int64_t column = row + 1 + threadIdx.x; column < tiles.blocks() && tiles.meet(row, column);
         column += resolving_threads) {
      uint64_t word = suppressed[column];
      const uint64_t* below = words + panel.word(tiles, row * nms_block, column);
#pragma unroll 1
      for (int first = 0; first < nms_block; first += in_flight) {
        uint64_t found[in_flight];
#pragma unroll
        for (int j = 0; j < in_flight; ++j) {
          found[j] = mine >> (first + j) & 1 ? *below : 0;
          below += tiles.blocks();
        }
#pragma unroll
        for (int j = 0; j < in_flight; ++j) word |= found[j];
      }
      suppressed[column] = word;
    }
    __syncthreads();  // the next row's word is complete, and `diagonal` and `kept_here` have been read
  }
}

// One thread tells one box whether it is kept.
__global__ void __launch_bounds__(threads)
    scatter_kept(const uint64_t* __restrict__ kept, const int64_t* __restrict__ order, uint8_t* __restrict__ keep,
                 int64_t count) {
  for (int64_t p = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x; p < count;
       p += static_cast<int64_t>(gridDim.x) * threads)
    keep[order[p]] = kept[p / nms_block] >> p % nms_block & 1;
}

// One block lists the kept boxes by descending score, 1024 at a time; a thread's place is the number of kept boxes in
// warps before its own and in lanes before it. result[count] is their number.
__global__ void __launch_bounds__(resolving_threads)
    list_kept(const uint8_t* __restrict__ keep, const int64_t* __restrict__ by_score, int64_t* __restrict__ result,
              int64_t count) {
  __shared__ int in_warp[resolving_threads / 32];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  int64_t listed = 0;
  for (int64_t start = 0; start < count; start += resolving_threads) {
    const int64_t p = start + threadIdx.x;
    const int64_t i = p < count ? by_score[p] : 0;
    const bool kept = p < count && keep[i];
    const unsigned bits = __ballot_sync(whole_warp, kept);
    if (lane == 0) in_warp[warp] = __popc(bits);
    __syncthreads();
    int before = __popc(bits & ((1u << lane) - 1)), all = 0;
    for (int w = 0; w < resolving_threads / 32; ++w) {
      if (w < warp) before += in_warp[w];
      all += in_warp[w];
    }
    if (kept) result[listed + before] = i;
    listed += all;
    __syncthreads();  // `in_warp` has been read
  }
  if (threadIdx.x == 0) result[count] = listed;
}

}  // namespace

template <class C, class S>
int nms_cuda(const C* boxes, const S* scores, const NmsOrder& order, const NmsRule<C>& rule, const NmsWork<C>& work,
             int64_t* result, void* stream) {
  const auto s = static_cast<cudaStream_t>(stream);
  const NmsTiles tiles{order.count, order.groups};
  const int64_t padded = tiles.blocks() * nms_block;
  const unsigned grid = grid_of((padded + threads - 1) / threads);
  gather_sorted<<<grid, threads, 0, s>>>(boxes, scores, order.places, work.sorted,
                                         reinterpret_cast<uint32_t*>(work.suppressed), order.count, padded);
  const int64_t rows = panel_rows(tiles, most_nms_words);
  for (int64_t first = 0; first < tiles.blocks(); first += rows) {
    const NmsPanel panel{first, std::min(first + rows, tiles.blocks())};
    mark_pairs<<<grid_of(panel.count(tiles)), nms_block, 0, s>>>(work.sorted, work.suppressed, work.words, tiles, panel,
                                                                 rule);
    resolve_panel<<<1, resolving_threads, 0, s>>>(work.words, work.suppressed, work.kept, tiles, panel);
  }
  scatter_kept<<<grid, threads, 0, s>>>(work.kept, order.places, work.keep, order.count);
  list_kept<<<1, resolving_threads, 0, s>>>(work.keep, order.by_score, result, order.count);
  return cudaGetLastError();
}

#define INSTANTIATE(C, S) \
  template int nms_cuda(const C*, const S*, const NmsOrder&, const NmsRule<C>&, const NmsWork<C>&, int64_t*, void*);
INSTANTIATE(float, float)
INSTANTIATE(float, double)
INSTANTIATE(double, float)
INSTANTIATE(double, double)

}  // namespace maskrcnn_ops
