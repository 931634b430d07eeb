// Copyright 2026 The horovod-partial authors. Licensed under Apache-2.0.

#include "decide.h"

#include <algorithm>

namespace horovod_partial {
namespace {

// The ranks that the policy still waits for; `reason` says why. Empty when the
// policy lets the round start.
RankSet PolicyWaitsFor(const GroupSpec& spec, const View& view,
                       Reason* reason) {
  const RankSet& ready = view[Say::kReady];
  const RankSet absent = view[Say::kExcused] - ready;
  const RankSet computing = RankSet::All(view.size) - ready - absent;
  switch (spec.policy.kind) {
  case PolicyKind::kSolo:
    return RankSet(view.size);
  case PolicyKind::kMajority:
  case PolicyKind::kQuorum:
    *reason = Reason::kCommittee;
    return DrawCommittee(spec.seed, spec.name, view.round, spec.policy.k,
                         view.size) &
           computing;
  case PolicyKind::kFirst: {
    *reason = Reason::kTooFew;
    const int needed = std::min(spec.policy.k, view.size - absent.Count());
    return ready.Count() >= needed ? RankSet(view.size) : computing;
  }
  case PolicyKind::kFull:
    *reason = Reason::kNotAll;
    return computing;
  }
  return RankSet(view.size);
}

int LowestNotDrifted(const RankSet& candidates, const RankSet& drifted) {
  const int rank = (candidates - drifted).Lowest();
  return rank >= 0 ? rank : candidates.Lowest();
}

Decision Wait(Reason reason, RankSet waited_for) {
  Decision decision;
  decision.reason = reason;
  decision.waited_for = std::move(waited_for);
  return decision;
}

} // namespace

View::View(int size)
    : size(size), sets(kSays, RankSet(size)), ended(size), participants(size) {
}

bool HealDue(const GroupSpec& spec, const View& view) {
  if (spec.healing != Healing::kInRounds || view.size == 1) {
    return false;
  }
  return !view[Say::kMerged].Empty() ||
         (spec.resync_every > 0 &&
          view.round - view.last_heal >= spec.resync_every);
}

Decision Decide(const GroupSpec& spec, const View& view) {
  const RankSet all = RankSet::All(view.size);
  const RankSet nobody(view.size);

  if (view.stage != Stage::kRounds) {
    const bool check = view.stage == Stage::kCheck;
    RankSet needed(view.size);
    if (check) {
      needed = view.participants;
    } else {
      needed.Add(view.root);
    }
    const RankSet missing = needed - view[Say::kSynced];
    if (!missing.Empty()) {
      return Wait(Reason::kHealing, missing);
    }
    Decision decision;
    decision.kind = check ? Kind::kCheck : Kind::kTransfer;
    decision.participants = view.participants;
    decision.root =
        check ? LowestNotDrifted(view.participants, view[Say::kDrifted])
              : view.root;
    decision.heal =
        check && !(view.participants & view[Say::kDrifted]).Empty();
    return decision;
  }

  // Ranks that have ended do not ask for more; before that, a name that was
  // retired may be wanted again.
  if (!view[Say::kRetired].Empty() &&
      (view[Say::kRetired] | view.ended) == all) {
    Decision decision;
    decision.kind = Kind::kRemove;
    return decision;
  }

  const RankSet& ready = view[Say::kReady];
  if (ready.Empty()) {
    if (!view[Say::kCaller].Empty() &&
        (view[Say::kFlushing] | view[Say::kApart]) == all) {
      Decision decision;
      decision.kind = Kind::kFlush;
      decision.active = nobody;
      decision.empty = view[Say::kHolds].Empty();
      decision.participants = view[Say::kFlushing] - view[Say::kApart];
      return decision;
    }
    return Wait(Reason::kNobodyReady, nobody);
  }

  Reason reason = Reason::kNone;
  const RankSet waited_for = PolicyWaitsFor(spec, view, &reason);
  if (!waited_for.Empty()) {
    return Wait(reason, waited_for);
  }
  if (!view[Say::kVeto].Empty()) {
    return Wait(Reason::kVeto, view[Say::kVeto]);
  }

  Decision decision;
  decision.kind = Kind::kRound;
  decision.active = ready;
  decision.heal = HealDue(spec, view) && ready == all &&
                  view[Say::kBlocked] == all;
  decision.root = LowestNotDrifted(all, view[Say::kDrifted]);
  decision.participants = all;
  return decision;
}

std::string Decision::ToString() const {
  static const char* kinds[] = {"waits", "round",    "flush",
                                "check", "transfer", "remove"};
  static const char* reasons[] = {
      "",
      "nobody is ready",
      "initiator or committee",
      "too few ranks are ready",
      "not all ranks are ready",
      "veto: staleness bound, or a heal is due",
      "a heal is under way",
  };
  std::string text = kinds[static_cast<int>(kind)];
  if (kind == Kind::kWait) {
    if (!waited_for.Empty()) {
      text += " for rank " + waited_for.ToString();
    }
    text += std::string(" (") + reasons[static_cast<int>(reason)] + ")";
  } else if (kind == Kind::kRound) {
    text += " with rank " + active.ToString() + " active";
    text += heal ? ", then heal from rank " + std::to_string(root) : "";
  }
  return text;
}

} // namespace horovod_partial
