// Copyright 2026 The horovod-partial authors. Licensed under Apache-2.0.

#include "replay.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <queue>
#include <stdexcept>
#include <string>

#include "../core/group.h"

namespace horovod_partial {
namespace sim {
namespace {

void Check(const Steps& steps, const ReplaySetting& setting) {
  auto refuse = [](const std::string& what) {
    throw std::invalid_argument(what);
  };
  if (steps.empty()) {
    refuse("steps=[] must have a list of durations for each rank");
  }
  double longest = 0;
  for (size_t rank = 0; rank < steps.size(); ++rank) {
    if (steps[rank].empty()) {
      refuse("steps[" + std::to_string(rank) +
             "]=[] must have a duration at least");
    }
    for (double seconds : steps[rank]) {
      if (!(seconds >= 0) || std::isinf(seconds)) {
        refuse("steps[" + std::to_string(rank) + "] has " +
               std::to_string(seconds) + ", which is no duration in seconds");
      }
      longest = std::max(longest, seconds);
    }
  }
  if (longest == 0) {
    refuse("steps: all durations are 0 s");
  }
  if (setting.rounds < 1) {
    refuse("rounds=" + std::to_string(setting.rounds) + " must be at least 1");
  }
  if (!(setting.round_seconds >= 0) || std::isinf(setting.round_seconds)) {
    refuse("round_seconds=" + std::to_string(setting.round_seconds) +
           " must be 0 or more");
  }
}

GroupSpec SpecOf(const ReplaySetting& setting) {
  GroupSpec spec;
  spec.name = "replay";
  spec.tensors = {{"gradient", DType::kFloat32, {1}}};
  spec.policy = setting.policy;
  spec.seed = setting.seed;
  spec.staleness_bound = setting.staleness_bound;
  spec.Validate();
  return spec;
}

class Clockwork {
public:
  Clockwork(const Steps& steps, const ReplaySetting& setting)
      : steps_(steps), setting_(setting), spec_(SpecOf(setting)),
        size_(static_cast<int>(steps.size())), view_(size_), next_(size_, 0),
        submitted_(size_, 0.0) {
    for (int rank = 0; rank < size_; ++rank) {
      groups_.push_back(std::make_unique<Group>(spec_, rank, size_));
      Compute(rank, 0);
    }
    groups_.front()->Complement(view_);
    for (int rank = 0; rank < size_; ++rank) {
      Listen(rank);
    }
  }

  ReplayResult Run() {
    for (int64_t round = 0; round < setting_.rounds;) {
      // The next exchange: it knows whoever has submitted by then.
      now_ = std::max(now_, arrivals_.top().first);
      while (!arrivals_.empty() && arrivals_.top().first <= now_) {
        const Arrival arrival = arrivals_.top();
        arrivals_.pop();
        Submit(arrival.second, arrival.first);
      }
      const Decision decision = Decide(spec_, view_);
      if (decision.kind == Kind::kRound) {
        Execute(decision);
        ++round;
      }
    }
    return Sum();
  }

private:
  using Arrival = std::pair<double, int>; // when, and which rank's

  // From `since` on, a rank computes its next step.
  void Compute(int rank, double since) {
    const auto& steps = steps_[rank];
    arrivals_.push({since + steps[next_[rank]++ % steps.size()], rank});
  }

  void Submit(int rank, double when) {
    const float gradient = 0;
    Request request;
    request.ticket = 1;
    request.tensors = {&gradient};
    groups_[rank]->Take(request, done_);
    submitted_[rank] = when;
    if (!done_.empty()) { // late
      waited_ += now_ - when;
      done_.clear();
      Compute(rank, now_);
    }
    Listen(rank);
  }

  void Execute(const Decision& decision) {
    now_ += setting_.round_seconds;
    for (int rank = 0; rank < size_; ++rank) {
      groups_[rank]->Begin();
      groups_[rank]->Finish(decision, done_);
      if (!done_.empty()) { // active
        waited_ += now_ - submitted_[rank];
        done_.clear();
        Compute(rank, now_);
      }
    }
    groups_.front()->Complement(view_);
    for (int rank = 0; rank < size_; ++rank) {
      Listen(rank);
    }
  }

  // Takes what a rank says of itself into the view.
  void Listen(int rank) {
    Standing standing;
    standing.waits = standing.blocked = true;
    const auto says = groups_[rank]->Speak(standing);
    for (int say = 0; say < kSays; ++say) {
      if (says[say]) {
        view_.sets[say].Add(rank);
      } else {
        view_.sets[say].Remove(rank);
      }
    }
  }

  ReplayResult Sum() const {
    ReplayResult result;
    result.seconds = now_;
    result.rounds = setting_.rounds;
    result.wait_seconds = waited_ / size_;
    int64_t staleness = 0;
    for (const auto& group : groups_) {
      const Stats& stats = group->stats();
      result.submissions += stats.staleness_count;
      staleness += stats.staleness_sum;
      result.max_staleness =
          std::max(result.max_staleness, stats.largest_staleness);
    }
    result.mean_active =
        static_cast<double>(groups_.front()->stats().active_sum) /
        result.rounds;
    result.mean_staleness = static_cast<double>(staleness) / result.submissions;
    return result;
  }

  const Steps& steps_;
  const ReplaySetting setting_;
  const GroupSpec spec_;
  const int size_;
  View view_;
  std::vector<std::unique_ptr<Group>> groups_;
  std::vector<size_t> next_; // step of each rank
  std::vector<double> submitted_;
  std::priority_queue<Arrival, std::vector<Arrival>, std::greater<Arrival>>
      arrivals_;
  std::vector<Completion> done_;
  double now_ = 0;
  double waited_ = 0;
};

} // namespace

ReplayResult Replay(const Steps& steps, const ReplaySetting& setting) {
  Check(steps, setting);
  return Clockwork(steps, setting).Run();
}

} // namespace sim
} // namespace horovod_partial
