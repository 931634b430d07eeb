// Copyright 2026 The horovod-partial authors. Licensed under Apache-2.0.

#ifndef HOROVOD_PARTIAL_SIM_TASK_H
#define HOROVOD_PARTIAL_SIM_TASK_H

#include <coroutine>
#include <exception>
#include <utility>

namespace horovod_partial {
namespace sim {

// A coroutine that runs when somebody awaits or resumes it, and may await
// other tasks: what a simulated application is written in.
class Task {
public:
  struct promise_type {
    std::coroutine_handle<> awaiter;
    std::exception_ptr error;

    Task get_return_object() {
      return Task(std::coroutine_handle<promise_type>::from_promise(*this));
    }
    std::suspend_always initial_suspend() noexcept { return {}; }
    auto final_suspend() noexcept {
      struct Back {
        bool await_ready() noexcept { return false; }
        std::coroutine_handle<>
        await_suspend(std::coroutine_handle<promise_type> self) noexcept {
          auto awaiter = self.promise().awaiter;
          return awaiter ? awaiter : std::noop_coroutine();
        }
        void await_resume() noexcept {}
      };
      return Back{};
    }
    void return_void() {}
    void unhandled_exception() { error = std::current_exception(); }
  };

  Task() = default;
  explicit Task(std::coroutine_handle<promise_type> handle)
      : handle_(handle) {}
  Task(Task&& other) noexcept : handle_(std::exchange(other.handle_, {})) {}
  Task& operator=(Task&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~Task() {
    if (handle_) {
      handle_.destroy();
    }
  }

  std::coroutine_handle<> handle() const { return handle_; }
  bool done() const { return !handle_ || handle_.done(); }
  void Rethrow() const {
    if (handle_ && handle_.promise().error) {
      std::rethrow_exception(handle_.promise().error);
    }
  }

  bool await_ready() const noexcept { return done(); }
  std::coroutine_handle<> await_suspend(std::coroutine_handle<> awaiter) {
    handle_.promise().awaiter = awaiter;
    return handle_;
  }
  void await_resume() const { Rethrow(); }

private:
  std::coroutine_handle<promise_type> handle_;
};

} // namespace sim
} // namespace horovod_partial

#endif // HOROVOD_PARTIAL_SIM_TASK_H
