// Copyright 2026 The horovod-partial authors. Licensed under Apache-2.0.

#ifndef HOROVOD_PARTIAL_CORE_POLICY_H
#define HOROVOD_PARTIAL_CORE_POLICY_H

#include <cstdint>
#include <string>

#include "rank_set.h"

namespace horovod_partial {

// The rule that says when a round may start. Solo and majority are the
// policies of eager-SGD (Li et al., PPoPP 2020, section 4); majority is a
// quorum of one.
enum class PolicyKind : uint8_t { kSolo, kMajority, kQuorum, kFirst, kFull, kAuto };

struct Policy {
  PolicyKind kind = PolicyKind::kMajority;
  // Members of the committee (quorum, majority) or ranks that have to be ready
  // (first). Not used by solo and full. A K above the size counts as the size.
  int k = 1;
  // Auto, which finds the K of first:K by itself (tuner.h): how much one round
  // of mean staleness costs in gradient efficiency.
  double staleness_cost = kStalenessCost;

  // As measured: see benchmarks/auto_simulation.py.
  static constexpr double kStalenessCost = 0.7;

  // "solo", "majority", "quorum:K", "first:K", "full", "auto" or "auto:COST".
  std::string ToString() const;

  bool operator==(const Policy& o) const {
    return kind == o.kind && k == o.k && staleness_cost == o.staleness_cost;
  }
};

// Parses the form that ToString writes. Throws std::invalid_argument with a
// message that names the value and what is allowed.
Policy ParsePolicy(const std::string& text);

// The committee of a round: min(k, size) different ranks, drawn from a
// counter-based generator over (seed, group, round), so that every rank draws
// the same ones without talking.
RankSet DrawCommittee(uint64_t seed, const std::string& group, int64_t round,
                      int k, int size);

} // namespace horovod_partial

#endif // HOROVOD_PARTIAL_CORE_POLICY_H
