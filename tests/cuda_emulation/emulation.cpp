// Runs the threads of a block as fibers that take turns where they wait.
#undef _FORTIFY_SOURCE  // which takes a jump to another stack for an error
#include <cuda_runtime.h>
#include <setjmp.h>
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

namespace emulation {

dim3 thread_index, block_index, block_size, grid_size;

namespace {

constexpr size_t stack_bytes = 256 << 10;
constexpr int most_threads = 1024;
constexpr int warp_size = 32;

enum class State { ready, in_block, in_warp, returned };

// Where a fiber, or the scheduler, goes on. Once started, it is reached by a jump: swapcontext asks the kernel of the
// system each time. AddressSanitizer knows swapcontext only, and must be told of the stacks.
struct Context {
  ucontext_t entry;
  jmp_buf place;
  bool started = false;
  const void* stack = nullptr;
  size_t stack_size = 0;
  void* shadow = nullptr;

  void switch_to(Context& other) {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_start_switch_fiber(&shadow, other.stack, other.stack_size);
    swapcontext(&entry, &other.entry);
    arrive_from(other);
#else
    if (_setjmp(place) != 0) return;
    started = true;
    if (other.started) _longjmp(other.place, 1);
    setcontext(&other.entry);
#endif
  }
  void arrive_from([[maybe_unused]] Context& other) {
#ifdef __SANITIZE_ADDRESS__
    const void* bottom;
    size_t size;
    __sanitizer_finish_switch_fiber(shadow, &bottom, &size);
    if (other.stack == nullptr) other.stack = bottom, other.stack_size = size;
#endif
  }
};

// A thread of the running block. Its stack and context serve one block after the other.
struct Fiber {
  Context context;
  std::unique_ptr<char[]> stack;
  dim3 index;
  State state;
  int line;       // where it waits
  unsigned mask;  // for whom, in its warp
};

struct Warp {
  unsigned arrived;
  int exchanges;
  alignas(slot_bytes) unsigned char slots[2][warp_size * slot_bytes];
};

// What runs: one kernel at a time.
struct Machine {
  std::mutex busy;
  std::vector<Fiber> fibers;
  Warp warps[most_threads / warp_size];
  Context scheduler;
  std::vector<unsigned char> launched;
  std::vector<int> order;  // of warps
  uint64_t blocks = 0;
  const Launch* launch = nullptr;
  Body body = nullptr;
  void* thread = nullptr;
  int running = -1, threads = 0, waiting = 0, returned = 0;
};

Machine machine;
thread_local cudaError_t last_error = cudaSuccess;

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "cuda_emulation: %s, block (%u, %u, %u): %s\n", machine.launch->kernel, block_index.x,
               block_index.y, block_index.z, what);
  for (int t = 0; t < machine.threads; ++t) {
    const Fiber& fiber = machine.fibers[t];
    if (fiber.state == State::returned) std::fprintf(stderr, "  thread %d has returned\n", t);
    else std::fprintf(stderr, "  thread %d waits in line %d\n", t, fiber.line);
  }
  std::abort();
}

void back_to_scheduler() { machine.fibers[machine.running].context.switch_to(machine.scheduler); }

void fiber_main() {
  machine.fibers[machine.running].context.arrive_from(machine.scheduler);
  for (;;) {
    machine.body(machine.thread);
    machine.fibers[machine.running].state = State::returned;
    ++machine.returned;
    back_to_scheduler();
  }
}

void resume(int t) {
  machine.running = t;
  thread_index = machine.fibers[t].index;
  machine.scheduler.switch_to(machine.fibers[t].context);
}

// Neither fibers nor their stacks move: contexts point into themselves.
void make_fibers(int count) {
  machine.fibers.reserve(most_threads);
  while (static_cast<int>(machine.fibers.size()) < count) {
    Fiber& fiber = machine.fibers.emplace_back();
    fiber.stack.reset(new char[stack_bytes]);
    Context& context = fiber.context;
    context.stack = fiber.stack.get();
    context.stack_size = stack_bytes;
    getcontext(&context.entry);
    context.entry.uc_stack.ss_sp = fiber.stack.get();
    context.entry.uc_stack.ss_size = stack_bytes;
    makecontext(&context.entry, fiber_main, 0);
  }
}

// $CUDA_EMULATION_ORDER: 0, the default, is ascending; of any other number, random ones.
int order_seed() {
  static const int seed = std::getenv("CUDA_EMULATION_ORDER") ? std::atoi(std::getenv("CUDA_EMULATION_ORDER")) : 0;
  return seed;
}

// Which kernels were launched how often: appended to the file $CUDA_EMULATION_REPORT when the process ends.
class Report {
 public:
  ~Report() {
    const char* path = std::getenv("CUDA_EMULATION_REPORT");
    std::FILE* file = path ? std::fopen(path, "a") : nullptr;
    if (file == nullptr) return;
    for (const auto& [kernel, count] : launches_) std::fprintf(file, "%ld %s\n", count, kernel.c_str());
    std::fclose(file);
  }
  void add(const std::string& kernel) {
    const std::lock_guard<std::mutex> lock(mutex_);
    ++launches_[kernel.substr(0, kernel.find('<'))];  // without template arguments
  }

 private:
  std::mutex mutex_;
  std::map<std::string, long> launches_;
};

Report report;

// Lets the warp's threads run, in turns, until all wait for other warps or have returned; whether any ran.
bool run_warp(int warp) {
  const int first = warp * warp_size, last = std::min(first + warp_size, machine.threads);
  bool any = false, again = true;
  while (again) {
    again = false;
    for (int t = first; t < last; ++t)
      if (machine.fibers[t].state == State::ready) {
        any = again = true;
        resume(t);
      }
  }
  return any;
}

// A warp goes as far as it can before the next one runs: whoever relies on others to keep up fails.
void run_block() {
  machine.blocks += 1;
  machine.waiting = machine.returned = 0;
  for (Warp& warp : machine.warps) warp.arrived = 0;
  std::fill(machine.launched.begin(), machine.launched.end(), 0xff);
  for (int t = 0; t < machine.threads; ++t) {
    const unsigned x = block_size.x, y = block_size.y, u = t;
    machine.fibers[t].index = {u % x, u / x % y, u / x / y};
    machine.fibers[t].state = State::ready;
  }
  std::vector<int>& order = machine.order;
  order.resize((machine.threads + warp_size - 1) / warp_size);
  std::iota(order.begin(), order.end(), 0);
  std::minstd_rand random(order_seed() + static_cast<unsigned>(machine.blocks));
  while (machine.returned < machine.threads) {
    if (order_seed() != 0) std::shuffle(order.begin(), order.end(), random);
    bool any = false;
    for (const int warp : order) any = run_warp(warp) || any;
    if (!any) fail("threads wait for others that wait elsewhere or have returned");
  }
}

}  // namespace

uint64_t block_number() { return machine.blocks; }

unsigned char* launched_shared_memory() { return machine.launched.data(); }

void* lane_slot(int lane) {
  Warp& warp = machine.warps[machine.running / warp_size];
  return warp.slots[warp.exchanges % 2] + lane * slot_bytes;
}

void wait_for_block(int line) {
  Fiber& mine = machine.fibers[machine.running];
  mine.state = State::in_block;
  mine.line = line;
  if (++machine.waiting == machine.threads) {
    for (int t = 0; t < machine.threads; ++t) {
      if (machine.fibers[t].line != line) fail("threads of a block wait in different places");
      machine.fibers[t].state = State::ready;
    }
    machine.waiting = 0;
  }
  back_to_scheduler();
}

void wait_for_warp(unsigned mask, int line) {
  const int t = machine.running, first = t / warp_size * warp_size;
  Fiber& mine = machine.fibers[t];
  Warp& warp = machine.warps[t / warp_size];
  mine.state = State::in_warp;
  mine.line = line;
  mine.mask = mask;
  if (!(mask >> (t - first) & 1)) fail("a thread is not in the mask that it gives");
  warp.arrived |= 1u << (t - first);
  if ((warp.arrived & mask) == mask) {
    for (int lane = 0; lane < warp_size; ++lane) {
      if (!(mask >> lane & 1)) continue;
      Fiber& other = machine.fibers[first + lane];
      if (other.line != line || other.mask != mask) fail("threads of a warp wait in different places");
      other.state = State::ready;
    }
    warp.arrived &= ~mask;
    warp.exchanges += 1;
  }
  back_to_scheduler();
}

void run(const Launch& launch, Body body, void* thread) {
  const std::lock_guard<std::mutex> lock(machine.busy);
  const uint64_t threads = uint64_t(launch.block.x) * launch.block.y * launch.block.z;
  machine.launch = &launch;
  machine.body = body;
  machine.thread = thread;
  machine.threads = static_cast<int>(threads);
  block_size = launch.block;
  grid_size = launch.grid;
  // What a GPU refuses.
  const bool valid = threads >= 1 && threads <= most_threads && launch.block.z <= 64 && launch.grid.x >= 1 &&
                     launch.grid.x <= 0x7fffffff && launch.grid.y >= 1 && launch.grid.y <= 65535 &&
                     launch.grid.z >= 1 && launch.grid.z <= 65535 && launch.shared_bytes <= 48 << 10;
  if (!valid) {
    machine.launch = nullptr;
    last_error = cudaErrorInvalidConfiguration;
    return;
  }
  report.add(launch.kernel);
  machine.launched.resize(launch.shared_bytes);
  make_fibers(machine.threads);
  for (unsigned z = 0; z < launch.grid.z; ++z)
    for (unsigned y = 0; y < launch.grid.y; ++y)
      for (unsigned x = 0; x < launch.grid.x; ++x) {
        block_index = {x, y, z};
        run_block();
      }
  machine.launch = nullptr;
}

}  // namespace emulation

cudaError_t cudaGetLastError() {
  const cudaError_t error = emulation::last_error;
  emulation::last_error = cudaSuccess;
  return error;
}
