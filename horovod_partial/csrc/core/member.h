// Copyright 2026 The horovod-partial authors. Licensed under Apache-2.0.

#ifndef HOROVOD_PARTIAL_CORE_MEMBER_H
#define HOROVOD_PARTIAL_CORE_MEMBER_H

#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "group.h"

namespace horovod_partial {

// Where a rank's application stands at the moment of a snapshot.
struct AppState {
  // It waits for something that is no request to this member (a synchronous
  // operation, a group of another process set), or is inside excused().
  bool elsewhere = false;
  bool joined = false;
  // It has come to its end, and asks for nothing any more.
  bool over = false;
  // No synchronous operation of Horovod's is outstanding, nor a join.
  bool quiet = true;
  // Where it is over: the synchronous operations that it left outstanding, by
  // name. They complete if the other ranks submit them, too.
  std::set<std::string> left;
  // Requests that it waits for. One that it only polled, and that said no,
  // counts as a wait, but not as being blocked.
  struct Wait {
    Ticket ticket;
    bool blocked;
  };
  std::vector<Wait> waits;
};

// What one rank makes of a next cycle. It is due when some rank wants it now, or
// when each rank comes along and at least one of them has news.
enum class Want : uint8_t {
  kNothing,  // would say nothing that leads anywhere
  kAlong,    // what it waits for, the last exchange knew
  kTogether, // has news that lead to something once every rank comes along
  kNow,      // has news that may let others go on
};

// What a cycle decided for one group, the same on every rank.
struct Action {
  std::shared_ptr<Group> group;
  Decision decision;
};

// One rank's part in one process set: its groups, and the protocol between the
// ranks. It belongs to one thread, which calls, in each cycle:
//
//   a) Request, for what the application asked since the last cycle, then
//      Snapshot. The words are the rank's part of the exchange. What arrives
//      later belongs to the next cycle.
//   b) The bit-wise OR of all ranks' words, in whatever exchange the host
//      makes.
//   c) Resolve, with the result. Ranks know alike now whether some rank
//      announces a group: then RegistrationDue() is true on all of them.
//   d) If so, Announcements from every rank to every rank, and Register.
//   e) For each of Actions(), in order, on every rank:
//        round, flush: Group::Begin, the allreduce (unless empty), and
//                      Group::Finish;
//        check:        all ranks' Group::CheckHash, and Group::FinishCheck;
//        transfer:     the root's Group::Offer to all (unless empty),
//                      Group::FinishTransfer.
//   f) EndCycle.
//   Completed, at any time, for the answers to requests.
//
// Cycles need no clock. After one, the next is due at once if FollowUp() says
// so, the same on every rank; otherwise as the ranks' Wants() say, each after a
// Snapshot of its own at any time.
//
// Snapshots of different ranks need not be taken at the same time.
class Member {
public:
  // `most_bytes`: a larger group is not to be believed.
  Member(int rank, int size, int64_t most_bytes = INT64_MAX);

  int rank() const { return rank_; }
  int size() const { return size_; }

  // Asks something of the group called spec->name. A flush of a group that
  // this rank knows no spec of (by name only) has spec == nullptr.
  void Ask(const std::string& name, std::shared_ptr<const GroupSpec> spec,
           Request request);
  std::vector<uint64_t> Snapshot(const AppState& app);
  // The bits of a snapshot before those of the groups.
  static size_t HeadOf(int size) { return 1 + 2 * size; }
  void Resolve(const std::vector<uint64_t>& words);
  bool RegistrationDue() const { return registration_due_; }
  void EndCycle();
  // Whether the cycle changed something that may let the next one do more.
  bool FollowUp() const { return follow_up_; }
  // As of the last Snapshot. What only holds others up can wait. `operations`:
  // synchronous ones may be new; `of_all`: in the process set of all ranks.
  Want Wants(bool operations = false, bool of_all = true) const;
  std::string Announcements();
  // `messages[r]` is what rank r announced. Throws std::runtime_error when one
  // cannot be read.
  void Register(const std::vector<std::string>& messages);
  const std::vector<Action>& Actions() const { return actions_; }
  std::vector<Completion>& Completed() { return completed_; }

  // As of the last exchange: ranks whose application is over. They count as
  // joined (and do not while they are in join() themselves), and will submit no
  // more.
  const RankSet& ended() const { return ended_; }
  // As this rank said in its last Snapshot.
  bool self_ended() const { return spoken_.ended; }
  // Ended ranks with nothing outstanding, or nothing that could still complete.
  const RankSet& drained() const { return drained_; }
  // Whether a synchronous operation cannot complete any more: a rank has ended
  // without it. As of the last cycle, alike on every rank.
  bool Lost(const std::string& operation) const;

  // The next question of policy auto, for the first rank, and whose it is;
  // nullptr if none is due. Groups take turns.
  std::unique_ptr<Question> NextQuestion(std::shared_ptr<Group>* asker);
  // nullptr when there is no such group (yet).
  std::shared_ptr<Group> Find(const std::string& name) const;
  const std::vector<std::shared_ptr<Group>>& groups() const { return groups_; }
  // Groups that went away with something in this rank's send buffer.
  const std::vector<std::string>& left() const { return left_; }
  // What ranks waited for in the last exchange: a round or a flush of a group,
  // or (-1) that it is registered.
  struct Waiting {
    std::string group;
    int64_t round;
  };
  std::vector<Waiting> Waits() const;
  // One of them for people: who is waited for, and why.
  std::string Explain(const std::string& name) const;
  // The last exchange's view of a registered group and what followed from it.
  const View& LastView(const std::string& name) const;
  const Decision& LastDecision(const std::string& name) const;

private:
  // An announcement that waits for others, as every rank knows it.
  struct Announcement {
    bool made = false;
    bool submits = false;
    std::shared_ptr<const GroupSpec> spec; // nullptr: by name only
  };
  // What a rank says of itself together with its announcements.
  struct Whereabouts {
    bool gone = false; // joined or ended
    bool elsewhere = false;
    std::set<std::string> waits; // for requests of these groups

    bool Excused(bool full) const {
      return gone || (!full && (elsewhere || !waits.empty()));
    }
  };
  // What a rank said, as far as Wants() compares it.
  struct Spoken {
    bool ended = false;
    bool drained = false;
    std::map<std::string, std::array<bool, kSays>> groups;
  };
  // A request for a group that is not registered yet.
  struct Held {
    std::shared_ptr<const GroupSpec> spec;
    Request request;
  };
  // Announcements of a name that disagreed. Every rank hears of it at its
  // next request of that name, however much later than the others, unless it
  // joins or ends before.
  struct Failure {
    std::string message;
    RankSet untold;
  };

  // What the news of one group, which the last exchange did not know, are good
  // for.
  Want WantOf(const Group& group, const std::array<bool, kSays>& now,
              const std::array<bool, kSays>& before) const;
  std::string NameOf(Ticket ticket) const;
  Whereabouts OwnWhereabouts() const;
  Spoken Speak() const;
  bool Ended() const { return app_.over && !app_.joined; }
  bool Drained() const;
  // Of what this member's groups have to say.
  Want WantOfGroups() const;
  bool Announces(const std::string& name) const;
  Standing StandingFor(const Group& group) const;
  // Looks at what has been announced under a name; true when that is settled,
  // by a group or by an error.
  bool Settle(const std::string& name,
              std::vector<Announcement>& announcements,
              const std::vector<Whereabouts>& whereabouts);
  // Answers announcements with the earliest failure that their rank has not
  // heard of.
  void TellFailures(const std::string& name,
                    std::vector<Announcement>& announcements);
  bool Untold(const std::string& name, int rank) const;
  bool UntoldOfAny(int rank) const;
  void Create(const std::string& name, const GroupSpec& spec,
              const RankSet& submitters);
  void Fail(const std::string& name, const std::string& message,
            const RankSet& told);
  void Remove(const std::string& name, const std::string& message);
  void RefuseHeld(const std::string& name, const std::string& message);
  void RefuseListeners(const std::string& name);
  void OrderActions();

  // Applications that are all over may leave operations of which not every
  // rank has its part. What can complete does so in fewer cycles than this.
  static constexpr int kLastCycles = 4;

  const int rank_;
  const int size_;
  const int64_t most_bytes_;

  std::vector<std::shared_ptr<Group>> groups_; // the same order on every rank
  std::map<std::string, std::vector<Held>> held_;
  std::set<std::string> sent_; // names that this rank has announced
  std::map<std::string, std::vector<Announcement>> announced_;
  std::map<std::string, RankSet> unannounced_; // who is waited for there
  std::map<std::string, std::deque<Failure>> failures_; // oldest first

  AppState app_;
  Spoken spoken_;    // in the last Snapshot
  Spoken settled_;   // in the last exchange, less what that has settled
  Whereabouts announced_whereabouts_; // in the last Announcements
  bool follow_up_ = false;
  RankSet ended_;
  RankSet drained_;
  int cycles_over_ = 0; // exchanges since the last application's end
  // What each rank left outstanding, as it said last; what this one has said;
  // and the ranks of which that is known.
  std::vector<std::set<std::string>> left_outstanding_;
  std::set<std::string> said_left_;
  RankSet lost_without_;
  std::weak_ptr<Group> last_asker_;
  bool registration_due_ = false;
  std::map<std::string, View> views_; // of the last exchange
  std::map<std::string, Decision> last_;
  std::vector<Action> actions_;
  std::vector<std::string> left_;
  std::vector<Completion> completed_;
};

} // namespace horovod_partial

#endif // HOROVOD_PARTIAL_CORE_MEMBER_H
