// Copyright 2026 The horovod-partial authors. Licensed under Apache-2.0.

#include "replay.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <queue>
#include <stdexcept>
#include <string>

#include "group.h"

namespace horovod_partial {
namespace {

void Check(const Steps& steps) {
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
}

void Check(const ReplaySetting& setting) {
  auto refuse = [](const std::string& what) {
    throw std::invalid_argument(what);
  };
  if (setting.rounds < 1) {
    refuse("rounds=" + std::to_string(setting.rounds) + " must be at least 1");
  }
  if (!(setting.seconds >= 0)) {
    refuse("seconds=" + std::to_string(setting.seconds) +
           " must be 0 or more");
  }
  if (!(setting.round_seconds >= 0) || std::isinf(setting.round_seconds)) {
    refuse("round_seconds=" + std::to_string(setting.round_seconds) +
           " must be 0 or more");
  }
  if (!(setting.exchange_seconds >= 0) ||
      std::isinf(setting.exchange_seconds)) {
    refuse("exchange_seconds=" + std::to_string(setting.exchange_seconds) +
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
  Clockwork(int size, const StepSource& source, const ReplaySetting& setting)
      : source_(source), setting_(setting), spec_(SpecOf(setting)),
        size_(size), view_(size_),
        submitted_(size_, 0.0), step_(size_, 0.0), known_(size_, 0) {
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
    for (; rounds_ < setting_.rounds &&
           (setting_.seconds == 0 || now_ < setting_.seconds);) {
      // The next exchange: it knows whoever has submitted by then.
      now_ = std::max(now_, arrivals_.top().first);
      const RankSet vetoes = view_[Say::kVeto];
      RankSet fresh(size_);
      while (!arrivals_.empty() && arrivals_.top().first <= now_) {
        const Arrival arrival = arrivals_.top();
        arrivals_.pop();
        if (Submit(arrival.second, arrival.first)) {
          fresh.Add(arrival.second);
        }
      }
      if (!Due(fresh, !(vetoes - view_[Say::kVeto]).Empty())) {
        continue;
      }
      Tune();
      ++exchanges_;
      now_ += setting_.exchange_seconds;
      const Decision decision = Decide(spec_, view_);
      if (decision.kind == Kind::kRound) {
        Execute(decision);
      }
    }
    return Sum();
  }

private:
  using Arrival = std::pair<double, int>; // when, and which rank's

  // From `since` on, a rank computes its next step.
  void Compute(int rank, double since) {
    step_[rank] = source_(rank, since);
    known_[rank] = rounds_;
    arrivals_.push({since + step_[rank], rank});
  }

  // Whether an exchange is due when `fresh` have become ready, as Member::Wants
  // has it: with all for `full`; not before a committee that is still to come.
  bool Due(const RankSet& fresh, bool unvetoes) const {
    const Policy& policy = spec_.policy;
    if (policy.kind == PolicyKind::kFull) {
      return view_[Say::kReady].Full();
    }
    if (unvetoes || fresh.Empty()) {
      return unvetoes;
    }
    if (policy.kind != PolicyKind::kMajority &&
        policy.kind != PolicyKind::kQuorum) {
      return true;
    }
    const RankSet committee =
        DrawCommittee(spec_.seed, spec_.name, view_.round, policy.k, size_);
    return !((fresh - committee) == fresh) ||
           (committee - view_[Say::kReady]).Empty();
  }

  // False when it is late.
  bool Submit(int rank, double when) {
    const float gradient = 0;
    Request request;
    request.ticket = 1;
    request.tensors = {&gradient};
    request.step_seconds = step_[rank];
    Record(when, rank, known_[rank]);
    groups_[rank]->Take(request, done_);
    submitted_[rank] = when;
    const bool late = !done_.empty();
    if (late) {
      waited_ += now_ - when;
      done_.clear();
      Compute(rank, now_);
    }
    Listen(rank);
    return !late;
  }

  void Execute(const Decision& decision) {
    now_ += setting_.round_seconds;
    ++rounds_;
    Record(now_, -1, decision.active.Count());
    if (Tuner* tuner = groups_.front()->tuner()) {
      tuner->NoteRound(setting_.round_seconds);
    }
    for (int rank = 0; rank < size_; ++rank) {
      groups_[rank]->Begin(decision);
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

  // What policy auto says in the exchange; questions are answered at once.
  void Tune() {
    Tuner* first = groups_.front()->tuner();
    if (first == nullptr) {
      return;
    }
    std::vector<uint32_t> said;
    for (const auto& group : groups_) {
      said.push_back(group->tuner()->StepToSay());
    }
    const uint64_t verdict = first->VerdictToSay();
    for (const auto& group : groups_) {
      group->tuner()->Hear(said, verdict, rounds_, view_[Say::kApart]);
    }
    groups_.front()->Complement(view_);
    if (const auto question = first->Ask()) {
      first->Answer(Evaluate(*question));
    }
  }

  void Record(double when, int rank, int64_t count) {
    if (setting_.trace) {
      events_.push_back({when, rank, count});
    }
  }

  // Takes what a rank says of itself into the view.
  void Listen(int rank) {
    Standing standing;
    standing.waits = standing.blocked = true;
    const auto says = groups_[rank]->Speak(standing);
    for (int say = 0; say < groups_[rank]->says(); ++say) {
      if (says[say]) {
        view_.sets[say].Add(rank);
      } else {
        view_.sets[say].Remove(rank);
      }
    }
  }

  ReplayResult Sum() {
    ReplayResult result;
    result.seconds = now_;
    result.rounds = rounds_;
    result.exchanges = exchanges_;
    result.events = std::move(events_);
    if (const Tuner* tuner = groups_.front()->tuner()) {
      result.changes = tuner->changes();
    }
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

  const StepSource& source_;
  const ReplaySetting setting_;
  const GroupSpec spec_;
  const int size_;
  View view_;
  std::vector<std::unique_ptr<Group>> groups_;
  std::vector<double> submitted_;
  std::vector<double> step_;   // the step under way, of each rank
  std::vector<int64_t> known_; // rounds that it began with
  int64_t rounds_ = 0;
  std::vector<ReplayEvent> events_;
  std::priority_queue<Arrival, std::vector<Arrival>, std::greater<Arrival>>
      arrivals_;
  std::vector<Completion> done_;
  int64_t exchanges_ = 0;
  double now_ = 0;
  double waited_ = 0;
};

} // namespace

ReplayResult Replay(const Steps& steps, const ReplaySetting& setting) {
  Check(steps);
  std::vector<size_t> next(steps.size(), 0);
  auto source = [&](int rank, double) {
    const auto& own = steps[rank];
    return own[next[rank]++ % own.size()];
  };
  return Replay(static_cast<int>(steps.size()), source, setting);
}

ReplayResult Replay(int size, const StepSource& source,
                    const ReplaySetting& setting) {
  Check(setting);
  return Clockwork(size, source, setting).Run();
}

} // namespace horovod_partial
