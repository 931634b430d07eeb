// Copyright 2026 The horovod-partial authors. Licensed under Apache-2.0.

#ifndef HOROVOD_PARTIAL_CORE_DECIDE_H
#define HOROVOD_PARTIAL_CORE_DECIDE_H

#include <cstdint>
#include <string>
#include <vector>

#include "rank_set.h"
#include "spec.h"

namespace horovod_partial {

// What one rank says of itself, for one group, in the exchange that all ranks
// make in each cycle. The exchange is a bit-wise OR, in which each rank sets
// bits of its own only, so a View holds a RankSet for each of these.
enum class Say : uint8_t {
  kVeto,     // "not yet": see Group::Vetoes
  kReady,    // has a submission that waits for the next round
  kExcused,  // cannot be waited for: its application waits itself, or is done
  kDrifted,  // its replica may differ from the others
  kMerged,   // and it drifted by merging rounds, which makes a heal due
  kBlocked,  // its application is blocked on this very round
  kHolds,    // its send buffer is not empty
  kFlushing, // counts as having called flush(), all its rounds applied
  kCaller,   // waits in flush() itself, not in join()
  kApart,    // joined, ended or retired with no application that could heal, or
             // has left the heal under way
  kRetired,  // its application is done with this group
  kSynced,   // its application has done its part of the heal under way
  // Only said where submissions come in parts:
  kNext,     // of the round under way, the next part need not wait for it
  kWhole,    // has submitted all parts
};
constexpr int kSays = 14;
constexpr int kSaysOfParts = 2; // the last ones

// Between two rounds a group of replicas may have to heal.
enum class Stage : uint8_t {
  kRounds,   // no heal under way
  kCheck,    // after a flush: hashes of the replicas are compared
  kTransfer, // the root's replica goes to the others
};

// What every rank knows alike of one group after an exchange.
struct View {
  explicit View(int size);

  const RankSet& operator[](Say say) const {
    return sets[static_cast<int>(say)];
  }
  RankSet& operator[](Say say) { return sets[static_cast<int>(say)]; }

  int size;
  std::vector<RankSet> sets;
  RankSet ended;
  int64_t round = 0; // the next round's number
  int64_t last_heal = 0;
  int k = 1; // of policy auto
  Stage stage = Stage::kRounds;
  RankSet participants; // of the heal under way
  int root = 0;         // of the transfer under way
  // Of the round under way, where it goes in parts: the next part (0: there is
  // no such round), and as it began.
  int part = 0;
  RankSet active;
  RankSet stale;
  int sole = -1;
};

// Why nothing was started.
enum class Reason : uint8_t {
  kNone,
  kNobodyReady,
  kFlush,     // some rank has not called it
  kCommittee, // a committee member (majority: the initiator) is computing
  kTooFew,    // first:K, auto
  kNotAll,    // full
  kVeto,      // staleness bound, or a heal that is due
  kHealing,   // the participants of a heal have not done their part yet
  kPart,      // active ranks compute the next part of the round under way
};

enum class Kind : uint8_t {
  kWait,
  kRound,
  kFlush,
  kCheck,
  kTransfer,
  kRemove, // all ranks are done with the group
};

struct Decision {
  Kind kind = Kind::kWait;
  RankSet active; // kRound
  RankSet stale;  // kRound: passive, with something in the send buffer
  bool empty = false; // no rank contributes anything; kTransfer: no root is left
  int sole = -1; // or this rank alone: nothing to add up, it broadcasts
  bool heal = false;  // kRound: heal after it; kCheck: some rank has drifted
  int root = 0;       // of the heal
  RankSet participants;
  // kRound, kFlush: the parts of the group that go now. The round begins with
  // part 0, and is over with the last.
  int begin_part = 0;
  int end_part = 1;
  Reason reason = Reason::kNone;
  RankSet waited_for; // kWait

  // "round with rank 0, 2 active", for people.
  std::string ToString() const;
};

// Why the group's ranks wait, for people: who is ready, who is waited for, and
// what to look at there. `decision` is a wait that Decide gave for `view`.
std::string Explain(const GroupSpec& spec, const View& view,
                    const Decision& decision);

// Whether replicas are to be healed at the next chance.
bool HealDue(const GroupSpec& spec, const View& view);

// The round protocol. After each exchange every rank evaluates this function
// on the same view and gets the same answer, so no message tells who starts
// what:
//
//   a) A round starts when a rank is ready, no rank vetoes, and the policy is
//      satisfied. Who is ready then is active; the others are passive.
//   b) It heals when a heal is due and all ranks are active and blocked on it:
//      then no application is between forward and backward.
//   c) A flush starts when no rank is ready, every rank counts as having
//      called it, and one did call it.
//   d) After a flush, replicas are compared once every participant has handed
//      in its hash; a transfer follows if they differ or one has drifted. Who
//      ends, or asks for something else, is no participant any more; without
//      its root, a transfer moves nothing.
//   e) No further round of the group starts while a heal is under way.
//   f) A group goes away when every rank has retired from it or ended.
//   g) Where submissions come in parts, a round begins with the first one, and
//      who is active is settled then. Each further part goes once no active
//      rank holds it up, and nothing else of the group starts in between.
//
// Pure: state in, decision and reason out.
Decision Decide(const GroupSpec& spec, const View& view);

} // namespace horovod_partial

#endif // HOROVOD_PARTIAL_CORE_DECIDE_H
