// Copyright 2026 The horovod-partial authors. Licensed under Apache-2.0.

#ifndef HOROVOD_PARTIAL_CORE_REPLAY_H
#define HOROVOD_PARTIAL_CORE_REPLAY_H

#include <cstdint>
#include <functional>
#include <vector>

#include "policy.h"
#include "tuner.h"

namespace horovod_partial {

// steps[rank][i]: seconds from the moment when a rank's application gets rounds
// to its next submission, in the order in which they were measured.
using Steps = std::vector<std::vector<double>>;

// Or asked for one by one: the seconds of the step that `rank` begins at
// `now`, in seconds since the beginning.
using StepSource = std::function<double(int rank, double now)>;

struct ReplaySetting {
  Policy policy;
  int64_t staleness_bound = 8;
  uint64_t seed = 0;        // of initiators and committees
  double round_seconds = 0; // from a round's start to its result
  int64_t rounds = 1000;    // to run
  double seconds = 0;       // or, unless 0, until that much time has passed
  bool trace = false;       // whether the result has events
  double exchange_seconds = 0; // of an exchange of all ranks, before a round
};

// What happened when, in the order in which it happened.
struct ReplayEvent {
  double seconds;
  int rank;    // that submitted; -1: a round
  // Of a submission: the number of rounds that its gradient knows of. Of a
  // round: how many ranks were active.
  int64_t count;
};

struct ReplayResult {
  double seconds = 0; // of all rounds together
  int64_t rounds = 0;
  int64_t exchanges = 0; // that something new made due
  int64_t submissions = 0;
  double mean_active = 0;
  double mean_staleness = 0; // pending rounds that a submission found
  int64_t max_staleness = 0;
  double wait_seconds = 0; // blocked on submissions, mean of the ranks
  std::vector<Change> changes; // policy auto
  std::vector<ReplayEvent> events;

  double RoundsPerSecond() const { return rounds / seconds; }
  double SubmissionsPerSecond() const { return submissions / seconds; }
  // What a policy is worth: gradients submitted per second, each worth less
  // the staler gradients are. `staleness_cost` is how much one round of mean
  // staleness costs in gradient efficiency; 0.7 has been measured.
  double Score(double staleness_cost) const {
    return SubmissionsPerSecond() / (1 + staleness_cost * mean_staleness);
  }
};

// What training would have been under another policy: runs the group of each
// rank and Decide, the code that real ranks run, against a virtual clock. A
// rank that comes to the end of its steps begins them anew. One thread, no
// randomness but the policy's draws, about a microsecond per submission. Under
// policy auto, K changes as it would on real ranks. An exchange begins as soon
// as ranks want one (Member::Wants) and the last one is over; what comes later
// waits for the next one. Not modelled: updates that a late rank makes for each
// missed round beyond those within `steps`, waits for anything but rounds.
//
// Throws std::invalid_argument unless there is a rank, each has steps, none
// takes less than 0 s, and not all take 0 s.
ReplayResult Replay(const Steps& steps, const ReplaySetting& setting);
ReplayResult Replay(int size, const StepSource& source,
                    const ReplaySetting& setting);

} // namespace horovod_partial

#endif // HOROVOD_PARTIAL_CORE_REPLAY_H
