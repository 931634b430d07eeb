// Copyright 2026 The horovod-partial authors. Licensed under Apache-2.0.

#include "decide.h"

#include <algorithm>

namespace horovod_partial {
namespace {

// How many ranks have to be ready under first:K, whose K auto sets.
int Needed(const GroupSpec& spec, const View& view) {
  const RankSet absent = view[Say::kExcused] - view[Say::kReady];
  const int k = spec.policy.kind == PolicyKind::kAuto ? view.k : spec.policy.k;
  return std::min(k, view.size - absent.Count());
}

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
  case PolicyKind::kFirst:
  case PolicyKind::kAuto:
    *reason = Reason::kTooFew;
    return ready.Count() >= Needed(spec, view) ? RankSet(view.size)
                                               : computing;
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

// Up to which part a round goes at once that has come to `part`.
int EndPart(const GroupSpec& spec, const View& view, const RankSet& active,
            int part) {
  return (active - view[Say::kWhole]).Empty() ? spec.Parts()
                                              : std::min(part + 1, spec.Parts());
}

// The rank that alone has something to contribute, or -1.
int Sole(const View& view) {
  const auto holders = view[Say::kHolds].ToVector();
  return holders.size() == 1 && view.size > 1 ? holders.front() : -1;
}

} // namespace

View::View(int size)
    : size(size), sets(kSays, RankSet(size)), ended(size), participants(size),
      active(size), stale(size) {}

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
    // Without those who have left it.
    const RankSet participants = view.participants - view[Say::kApart];
    RankSet needed = participants;
    if (!check) {
      RankSet root(view.size);
      root.Add(view.root);
      needed = participants & root;
    }
    const RankSet missing = needed - view[Say::kSynced];
    if (!missing.Empty()) {
      return Wait(Reason::kHealing, missing);
    }
    Decision decision;
    decision.kind = check ? Kind::kCheck : Kind::kTransfer;
    decision.participants = participants;
    decision.root = check ? LowestNotDrifted(participants, view[Say::kDrifted])
                          : view.root;
    decision.heal = check && !(participants & view[Say::kDrifted]).Empty();
    decision.empty = !check && needed.Empty();
    return decision;
  }

  if (view.part > 0) {
    const RankSet missing = view.active - view[Say::kNext];
    if (!missing.Empty()) {
      return Wait(Reason::kPart, missing);
    }
    Decision decision;
    decision.kind = Kind::kRound;
    decision.active = view.active;
    decision.stale = view.stale;
    decision.sole = view.sole;
    decision.participants = all;
    decision.begin_part = view.part;
    decision.end_part = EndPart(spec, view, view.active, view.part);
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
      decision.sole = Sole(view);
      decision.participants = view[Say::kFlushing] - view[Say::kApart];
      decision.end_part = spec.Parts();
      return decision;
    }
    return view[Say::kCaller].Empty()
               ? Wait(Reason::kNobodyReady, nobody)
               : Wait(Reason::kFlush,
                      all - view[Say::kFlushing] - view[Say::kApart]);
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
  decision.stale = view[Say::kHolds] - ready;
  decision.sole = Sole(view);
  decision.heal = HealDue(spec, view) && ready == all &&
                  view[Say::kBlocked] == all;
  decision.root = LowestNotDrifted(all, view[Say::kDrifted]);
  decision.participants = all;
  decision.end_part = EndPart(spec, view, ready, 0);
  return decision;
}

std::string Decision::ToString() const {
  static const char* kinds[] = {"wait",  "round",    "flush",
                                "check", "transfer", "remove"};
  std::string text = kinds[static_cast<int>(kind)];
  if (kind == Kind::kRound) {
    text += " with rank " + active.ToString() + " active";
    text += heal ? ", then heal from rank " + std::to_string(root) : "";
    text += end_part > 1 || begin_part > 0
                ? ", parts " + std::to_string(begin_part) + " to " +
                      std::to_string(end_part - 1)
                : "";
  }
  return text;
}

std::string Explain(const GroupSpec& spec, const View& view,
                    const Decision& decision) {
  const std::string missing = "rank " + decision.waited_for.ToString();
  const std::string head = "Partial group '" + spec.name + "': ";
  const RankSet absent = view[Say::kExcused] - view[Say::kReady];
  std::string why;
  switch (decision.reason) {
  case Reason::kFlush:
    return head + "a flush that rank " + view[Say::kCaller].ToString() +
           " called waits for " + missing +
           " to call flush() or join(), or to end.";
  case Reason::kHealing:
    return head + "a heal waits for the replica of " + missing + ".";
  case Reason::kPart:
    return head + "round " + std::to_string(view.round) + " is at part " +
           std::to_string(view.part) + " of " + std::to_string(spec.Parts()) +
           " and waits for the backward pass of " + missing + ".";
  case Reason::kCommittee:
    why = spec.policy.k == 1 ? "drawn as this round's initiator"
                             : "drawn into this round's committee";
    break;
  case Reason::kTooFew:
    why = "the policy needs " +
          std::to_string(Needed(spec, view) - view[Say::kReady].Count()) +
          " more";
    break;
  case Reason::kNotAll:
    why = "the policy needs all";
    break;
  case Reason::kVeto:
    why = HealDue(spec, view)
              ? "a heal is due: it needs all ranks at the end of a step"
              : "at the staleness bound of " +
                    std::to_string(spec.staleness_bound) + " pending rounds";
    break;
  case Reason::kNone:
  case Reason::kNobodyReady:
    return head + "nobody waits.";
  }
  return head + "round " + std::to_string(view.round) + " (policy " +
         spec.policy.ToString() +
         (spec.policy.kind == PolicyKind::kAuto
              ? ", now first:" + std::to_string(view.k)
              : "") +
         ") waits for " + missing + " (" + why +
         "). Ready: rank " + view[Say::kReady].ToString() +
         (absent.Empty() ? "" : "; excused: rank " + absent.ToString()) + ".";
}

} // namespace horovod_partial
