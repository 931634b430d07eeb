// Copyright 2026 The horovod-partial authors. Licensed under Apache-2.0.

#include "evaluator.h"

#include <algorithm>

#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "alarm.h"

namespace horovod_partial {
namespace glue {
namespace {

constexpr int kRest = 100; // times what an answer takes
constexpr int kNice = 10;

double ThreadSeconds() {
  timespec time;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * time.tv_nsec;
}

} // namespace

Evaluator::~Evaluator() {
  {
    std::lock_guard<std::mutex> guard(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) {
    thread_.join();
  }
}

bool Evaluator::Free() {
  std::lock_guard<std::mutex> guard(mutex_);
  return !question_ && !answer_ && Clock::now() >= rests_until_;
}

void Evaluator::Take(std::unique_ptr<Question> question,
                     const std::shared_ptr<Group>& asker) {
  std::lock_guard<std::mutex> guard(mutex_);
  question_ = std::move(question);
  asker_ = asker;
  if (!thread_.joinable()) {
    thread_ = std::thread([this] { Work(); });
  }
  changed_.notify_all();
}

void Evaluator::Deliver(const std::vector<std::shared_ptr<Group>>& groups) {
  std::lock_guard<std::mutex> guard(mutex_);
  if (!answer_) {
    return;
  }
  const auto asker = asker_.lock();
  if (std::find(groups.begin(), groups.end(), asker) != groups.end()) {
    asker->tuner()->Answer(*answer_);
  }
  answer_.reset();
}

void Evaluator::Work() {
  // On Linux, a thread has a priority of its own.
  setpriority(PRIO_PROCESS, static_cast<id_t>(syscall(SYS_gettid)), kNice);
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return stop_ || question_; });
    if (stop_) {
      return;
    }
    const Question& question = *question_; // stays until there is an answer
    lock.unlock();
    const double before = ThreadSeconds();
    const Verdict verdict = Evaluate(question);
    const double seconds = ThreadSeconds() - before;
    lock.lock();
    question_.reset();
    answer_ = verdict;
    rests_until_ =
        Clock::now() + std::chrono::duration_cast<Clock::duration>(
                           std::chrono::duration<double>(kRest * seconds));
    Alarm::Get().Ring(Alarm::kPartial);
  }
}

} // namespace glue
} // namespace horovod_partial
