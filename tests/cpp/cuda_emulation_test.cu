// What the emulation of CUDA does: right kernels give the right numbers, faulty ones end the program or show.

#include <cuda_runtime.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <vector>

#include "check.h"

namespace {

constexpr int threads = 96;

// The sum of each block, by shuffles within warps and shared memory between them.
__global__ void __launch_bounds__(threads) sum_blocks(const int* values, int* sums) {
  __shared__ int of_warp[threads / 32];
  int sum = values[blockIdx.x * threads + threadIdx.x];
  for (int step = 16; step > 0; step /= 2) sum += __shfl_down_sync(0xffffffffu, sum, step);
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x == 0) sums[blockIdx.x] = of_warp[0] + of_warp[1] + of_warp[2];
}

// Sums up to each lane; the lanes with odd values; the value of the lane across.
__global__ void __launch_bounds__(32) show_lanes(const int* values, int* up_to, unsigned* odd, int* across) {
  int sum = values[threadIdx.x];
  for (int step = 1; step < 32; step *= 2) {
    const int other = __shfl_up_sync(0xffffffffu, sum, step);
    if (static_cast<int>(threadIdx.x) >= step) sum += other;
  }
  up_to[threadIdx.x] = sum;
  odd[threadIdx.x] = __ballot_sync(0xffffffffu, values[threadIdx.x] % 2 != 0);
  across[threadIdx.x] = __shfl_xor_sync(0xffffffffu, values[threadIdx.x], 31);
}

// Each thread leaves its number for the one before it, which may wait until all have.
__global__ void pass_on(int* received, bool waits) {
  __shared__ int left[threads];
  left[threadIdx.x] = static_cast<int>(threadIdx.x);
  if (waits) __syncthreads();
  received[threadIdx.x] = left[(threadIdx.x + 1) % threads];
}

__global__ void read_unwritten(float* result) {
  __shared__ float never[4];
  extern __shared__ __align__(16) unsigned char memory[];
  result[0] = never[threadIdx.x];
  result[1] = reinterpret_cast<const float*>(memory)[threadIdx.x];
  never[threadIdx.x] = 1;
}

__global__ void count_threads(int* count, dim3 block, dim3 grid) {
  const bool right = blockDim.x == block.x && blockDim.y == block.y && gridDim.z == grid.z && threadIdx.x < block.x &&
                     threadIdx.y < block.y && blockIdx.z < grid.z;
  if (right) atomicAdd(count, 1);
}

__global__ void wait_without_some() {
  if (threadIdx.x < 7) return;
  __syncthreads();
}

__global__ void wait_in_two_places() {
  if (threadIdx.x < 7) __syncthreads();
  if (threadIdx.x >= 7) __syncthreads();
}

__global__ void vote_without_some() {
  if (threadIdx.x < 7) __ballot_sync(0xffffffffu, true);
}

__global__ void do_nothing() {}

// Whether the call ends the program, in a process of its own whose complaints are not shown.
template <class Call>
bool ends(Call call) {
  const pid_t child = fork();
  if (child == 0) {
    std::fclose(stderr);
    call();
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return !WIFEXITED(status) || WEXITSTATUS(status) != 0;
}

void right_kernels() {
  std::vector<int> values(3 * threads), sums(3);
  for (int i = 0; i < 3 * threads; ++i) values[i] = i;
  sum_blocks<<<3, threads, 0, nullptr>>>(values.data(), sums.data());
  for (int b = 0; b < 3; ++b) CHECK(sums[b] == threads * threads * b + threads * (threads - 1) / 2);

  std::vector<int> up_to(32), across(32);
  std::vector<unsigned> odd(32);
  show_lanes<<<1, 32, 0, nullptr>>>(values.data(), up_to.data(), odd.data(), across.data());
  for (int t = 0; t < 32; ++t) CHECK(up_to[t] == t * (t + 1) / 2 && odd[t] == 0xaaaaaaaau && across[t] == 31 - t);

  int count = 0;
  count_threads<<<dim3(2, 3, 4), dim3(5, 6), 0, nullptr>>>(&count, dim3(5, 6), dim3(2, 3, 4));
  CHECK(count == 2 * 3 * 4 * 5 * 6);
}

void faulty_kernels() {
  std::vector<int> received(threads);
  auto arrived = [&] {
    int right = 0;
    for (int t = 0; t < threads; ++t) right += received[t] == (t + 1) % threads;
    return right;
  };
  pass_on<<<1, threads, 0, nullptr>>>(received.data(), true);
  CHECK(arrived() == threads);
  pass_on<<<1, threads, 0, nullptr>>>(received.data(), false);
  CHECK(arrived() < threads);

  std::vector<float> read(2);
  for (int launches = 0; launches < 2; ++launches) {
    read_unwritten<<<2, 1, 16, nullptr>>>(read.data());
    CHECK(std::isnan(read[0]) && std::isnan(read[1]));
  }

  CHECK(ends([] { wait_without_some<<<1, threads, 0, nullptr>>>(); }));
  CHECK(ends([] { wait_in_two_places<<<1, threads, 0, nullptr>>>(); }));
  CHECK(ends([] { vote_without_some<<<1, threads, 0, nullptr>>>(); }));
  CHECK(!ends([] { do_nothing<<<1, threads, 0, nullptr>>>(); }));

  const dim3 refused[][2] = {{1, 1025}, {dim3(1, 65536), 1}, {0, 1}};
  for (const auto& [grid, block] : refused) {
    const dim3 blocks = grid, size = block;
    do_nothing<<<blocks, size, 0, nullptr>>>();
    CHECK(cudaGetLastError() == cudaErrorInvalidConfiguration && cudaGetLastError() == cudaSuccess);
  }
  do_nothing<<<1, 1024, 0, nullptr>>>();
  CHECK(cudaGetLastError() == cudaSuccess);
}

}  // namespace

int main() {
  right_kernels();
  faulty_kernels();
  return finish();
}
