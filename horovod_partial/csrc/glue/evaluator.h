// Copyright 2026 The horovod-partial authors. Licensed under Apache-2.0.

#ifndef HOROVOD_PARTIAL_GLUE_EVALUATOR_H
#define HOROVOD_PARTIAL_GLUE_EVALUATOR_H

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>

#include "horovod_partial/csrc/core/group.h"

namespace horovod_partial {
namespace glue {

// Answers the questions of policy auto on a thread of its own, so that no round
// waits for an answer. The thread gives way to others, and rests a hundred
// times as long as an answer has taken: it needs less than 1 % of one core.
class Evaluator {
public:
  ~Evaluator();

  // Whether it is time for a question.
  bool Free();
  // Takes one, of `asker`, while it is free.
  void Take(std::unique_ptr<Question> question,
            const std::shared_ptr<Group>& asker);
  // Hands in the answer that is there, if it is to one of these groups.
  void Deliver(const std::vector<std::shared_ptr<Group>>& groups);

private:
  using Clock = std::chrono::steady_clock;

  void Work();

  std::mutex mutex_;
  std::condition_variable changed_;
  bool stop_ = false;
  std::weak_ptr<Group> asker_;
  std::unique_ptr<Question> question_;
  std::optional<Verdict> answer_;
  Clock::time_point rests_until_;
  std::thread thread_; // begins with the first question
};

} // namespace glue
} // namespace horovod_partial

#endif // HOROVOD_PARTIAL_GLUE_EVALUATOR_H
