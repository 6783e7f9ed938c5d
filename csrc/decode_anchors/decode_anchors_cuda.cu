#include "common/cuda_kernel.h"
#include "decode_anchors/decode_anchors.h"

namespace maskrcnn_ops {
namespace {

constexpr int select_threads = 1024, decode_threads = 256;
constexpr int64_t shared_bytes = 32 * 1024;  // for sorting; what every architecture grants unasked

// What the threads of a block agree on while they narrow a selection.
struct Selection {
  unsigned counts[digits];
  unsigned digit;
  int64_t before;  // words with a smaller digit
};

// Warp 0: the digit in which the word of rank `needed` (from 1) lies. Every lane sums eight counts.
__device__ __forceinline__ void find_digit(Selection& shared, int64_t needed) {
  constexpr int each = digits / 32;
  const int lane = threadIdx.x;
  int64_t own = 0;
  for (int k = 0; k < each; ++k) own += shared.counts[lane * each + k];
  int64_t up_to = own;
  for (int distance = 1; distance < 32; distance *= 2) {
    const int64_t other = __shfl_up_sync(0xffffffffu, up_to, distance);
    if (lane >= distance) up_to += other;
  }
  int64_t before = up_to - own;
  if (needed <= before || needed > up_to) return;  // one lane goes on
  for (int k = 0; k < each; ++k) {
    const unsigned count = shared.counts[lane * each + k];
    if (needed <= before + count) {
      shared.digit = lane * each + k;
      shared.before = before;
      return;
    }
    before += count;
  }
}

// Radix selection of the `needed` smallest words, a digit at a time from the highest; word_at(i, word) says whether i
// takes part. Returns true with the largest word that is taken in `cut`, or false where words equal to `cut` are more
// than are needed: then `needed` of those remain. 1 <= needed <= words. All threads of the block call it.
template <class Word, class WordAt>
__device__ __forceinline__ bool select_smallest(int64_t count, int64_t& needed, Word& cut, Selection& shared,
                                                const WordAt& word_at) {
  cut = 0;
  for (int shift = 8 * sizeof(Word) - digit_bits; shift >= 0; shift -= digit_bits) {
    for (int d = threadIdx.x; d < digits; d += select_threads) shared.counts[d] = 0;
    __syncthreads();
    for (int64_t i = threadIdx.x; i < count; i += select_threads) {
      Word word;
      if (word_at(i, word) && agree_above(word, cut, shift)) atomicAdd(&shared.counts[digit_of(word, shift)], 1u);
    }
    __syncthreads();
    if (threadIdx.x < 32) find_digit(shared, needed);
    __syncthreads();
    cut |= static_cast<Word>(shared.digit) << shift;
    needed -= shared.before;
    const bool whole = shared.counts[shared.digit] == needed;
    __syncthreads();  // before the counts are cleared
    if (whole) {
      cut = last_with(cut, shift);
      return true;
    }
  }
  return false;
}

// Bitonic sort of `size` candidates, a power of two, by the block.
template <class Item>
__device__ __forceinline__ void sort_block(Item* items, int64_t size) {
  for (int64_t width = 2; width <= size; width *= 2)
    for (int64_t distance = width / 2; distance > 0; distance /= 2) {
      __syncthreads();
      for (int64_t number = threadIdx.x; number < size / 2; number += select_threads) {
        const BitonicPair pair = bitonic_pair(number, width, distance);
        const Item a = items[pair.first], b = items[pair.second];
        if (pair.rising ? b < a : a < b) {
          items[pair.first] = b;
          items[pair.second] = a;
        }
      }
    }
  __syncthreads();
}

// One block chooses the kept anchors of one level of one image, in order, and writes their indices to chosen [N,
// slots]. It reads the level's scores once for each digit that is needed to part the kept from the others (two or three
// of four as a rule; more only if scores tie at the border, then by index) and once to collect: that is from the L2
// cache. The collected arrive in any order and are sorted by a total order: deterministic. Sorted in shared memory if
// they fit.
template <class T>
__global__ void __launch_bounds__(select_threads)
    choose_anchors(const ProposalArgs<T> args, uint32_t* __restrict__ chosen,
                   Candidate<FallingKey<Acc<T>>>* __restrict__ candidates, int64_t largest, bool in_shared) {
  using Key = FallingKey<Acc<T>>;
  using Item = Candidate<Key>;
  extern __shared__ __align__(16) unsigned char memory[];
  __shared__ Selection selection;
  __shared__ unsigned collected;
  for (int64_t task = blockIdx.x; task < args.images * args.level_count; task += gridDim.x) {
    const int64_t n = task / args.level_count;
    const ProposalLevel<T>& level = args.levels[task % args.level_count];
    if (level.kept == 0) continue;
    const int64_t count = level.grid.size();
    const T* logits = level.logits + n * count;
    Item* items = in_shared ? reinterpret_cast<Item*>(memory) : candidates + task * largest;
    auto key_at = [&](int64_t place) { return falling_key(to_acc(logits[place])); };
    Key cut = ~Key(0);
    uint32_t last = ~uint32_t(0);  // index of the last taken of the anchors whose key is `cut`
    if (level.kept < count) {
      int64_t needed = level.kept;
      const bool whole = select_smallest<Key>(count, needed, cut, selection, [&](int64_t place, Key& key) {
        key = key_at(place);
        return true;
      });
      if (!whole)
        select_smallest<uint32_t>(count, needed, last, selection, [&](int64_t place, uint32_t& index) {
          index = static_cast<uint32_t>(level.index_of(place));
          return key_at(place) == cut;
        });
    }
    if (threadIdx.x == 0) collected = 0;
    const int64_t size = sorted_size(level.kept);
    for (int64_t i = level.kept + threadIdx.x; i < size; i += select_threads) items[i] = {~Key(0), ~uint32_t(0)};
    __syncthreads();
    for (int64_t place = threadIdx.x; place < count; place += select_threads) {
      const Key key = key_at(place);
      if (key > cut) continue;
      const auto index = static_cast<uint32_t>(level.index_of(place));
      if (key < cut || index <= last) items[atomicAdd(&collected, 1u)] = {key, index};
    }
    sort_block(items, size);
    for (int64_t i = threadIdx.x; i < level.kept; i += select_threads)
      chosen[n * args.slots + level.first + i] = items[i].index;
    __syncthreads();  // before the next task writes to `items`
  }
}

// One block decodes one image's chosen anchors, a thread each, and moves those that remain together in their order: the
// place of one is the number of remaining ones before it, counted by ballots. Bound by latency, a few thousand boxes.
// Deterministic, no atomics.
template <class T>
__global__ void __launch_bounds__(decode_threads)
    decode_chosen(const ProposalArgs<T> args, const Acc<T>* __restrict__ image_sizes,
                  const uint32_t* __restrict__ chosen, const Proposals<Acc<T>> out) {
  using A = Acc<T>;
  constexpr int warps = decode_threads / 32;
  __shared__ int remaining[warps];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int64_t n = blockIdx.x; n < args.images; n += gridDim.x) {
    const int64_t begin = n * args.slots;
    int64_t written = 0;
    int l = 0;
    for (int64_t start = 0; start < args.slots; start += decode_threads) {
      const int64_t slot = start + threadIdx.x;
      bool remains = false;
      Box<A> box{};
      A logit = 0;
      if (slot < args.slots) {
        while (slot >= args.levels[l].first + args.levels[l].kept) ++l;
        const ProposalLevel<T>& level = args.levels[l];
        const int64_t index = chosen[begin + slot], count = level.grid.size();
        const T* deltas = level.deltas + 4 * n * count;
        A codes[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) codes[j] = to_acc(deltas[level.delta_place(index, j)]);
        logit = to_acc(level.logits[n * count + level.logit_place(index)]);
        box = decoded_box(level.grid.anchor(level.grid.place(index)), codes, args.coder, image_sizes + 2 * n);
        remains = is_proposal(box, logit, args);
      }
      const unsigned ballot = __ballot_sync(0xffffffffu, remains);
      if (lane == 0) remaining[warp] = __popc(ballot);
      __syncthreads();
      int before = __popc(ballot & ((1u << lane) - 1)), all = 0;
      for (int w = 0; w < warps; ++w) {
        if (w < warp) before += remaining[w];
        all += remaining[w];
      }
      if (remains) write_proposal(out, begin + written + before, box, logit, l);
      written += all;
      __syncthreads();  // before `remaining` is written again
    }
    for (int64_t slot = written + threadIdx.x; slot < args.slots; slot += decode_threads)
      write_proposal(out, begin + slot, Box<A>{}, A(0), 0);
    if (threadIdx.x == 0) out.counts[n] = written;
  }
}

}  // namespace

template <class T>
int decode_anchors_cuda(const ProposalArgs<T>& args, const Acc<T>* image_sizes, const Proposals<Acc<T>>& out,
                        uint32_t* chosen, void* candidates, void* stream) {
  using Item = Candidate<FallingKey<Acc<T>>>;
  const auto s = static_cast<cudaStream_t>(stream);
  int64_t largest = 1;
  for (int l = 0; l < args.level_count; ++l) {
    const int64_t size = sorted_size(args.levels[l].kept);
    largest = size > largest ? size : largest;
  }
  const int64_t bytes = largest * static_cast<int64_t>(sizeof(Item));
  const bool in_shared = bytes <= shared_bytes;
  choose_anchors<T><<<grid_of(args.images * args.level_count), select_threads, in_shared ? bytes : 0, s>>>(
      args, chosen, static_cast<Item*>(candidates), largest, in_shared);
  decode_chosen<T><<<grid_of(args.images), decode_threads, 0, s>>>(args, image_sizes, chosen, out);
  return cudaGetLastError();
}

#define INSTANTIATE(T)                                                                                                \
  template int decode_anchors_cuda(const ProposalArgs<T>&, const Acc<T>*, const Proposals<Acc<T>>&, uint32_t*, void*, \
                                   void*);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(Half)
INSTANTIATE(BFloat16)

}  // namespace maskrcnn_ops
