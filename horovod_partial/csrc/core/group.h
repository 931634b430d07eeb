// Copyright 2026 The horovod-partial authors. Licensed under Apache-2.0.

#ifndef HOROVOD_PARTIAL_CORE_GROUP_H
#define HOROVOD_PARTIAL_CORE_GROUP_H

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "buffer.h"
#include "decide.h"
#include "spec.h"
#include "tuner.h"

namespace horovod_partial {

// Names a request of the application until its completion; 0 is none.
using Ticket = uint64_t;

// A fingerprint of parameters and optimizer state.
using Hash = std::array<uint64_t, 2>;

// One executed round as one rank sees it, or several merged into one.
struct Round {
  int64_t index = 0; // the newest round in it
  int64_t count = 1; // how many rounds it stands for
  std::vector<int> active; // of the newest
  bool flush = false;
  bool empty = false; // no rank contributed anything
  std::shared_ptr<Buffers> result;
};

// The answer to a request.
struct Completion {
  enum Status : uint8_t { kOk, kInvalid, kDuplicate, kAborted };

  Ticket ticket = 0;
  Status status = kOk;
  std::string message; // unless kOk
  std::vector<std::shared_ptr<Round>> rounds; // oldest first
  // A flush that did not end: the rounds have to be applied first, then asked
  // again.
  bool again = false;
  // The replicas heal now. After a submission: by a transfer from `root`.
  // After a flush: hand in a hash (kSync). After that: by a transfer.
  bool heal = false;
  int root = 0;
  // After kSync: the hashes differed, so somebody's state went its own way.
  bool differed = false;
  // After a transfer: what the root offered; nullptr if it has left the heal.
  std::shared_ptr<const std::string> replica;
};

// What an application asks of a group. All of them get one completion.
struct Request {
  enum Type : uint8_t {
    kSubmit,  // one training step's tensors
    kFlush,   // wait in flush()
    kListen,  // wait in join(): take part in flushes of others
    kSync,    // hand in `hash`, after a flush
    kOffer,   // root: `replica` for the transfer
    kReceive, // the others: wait for it
    kRetire,  // the application is done with the group
    kUnlisten, // join() is over; answers what listens, too
  };

  Ticket ticket = 0;
  Type type = kSubmit;
  // kSubmit: a pointer for each tensor, valid until the completion. A
  // submission in parts is several requests, each with the tensors of the next
  // parts from `first` on. Only the last of them has a ticket, and its
  // completion is the submission's.
  std::vector<const void*> tensors;
  size_t first = 0;
  // kSubmit: how long the application took for it, if it is known; else 0.
  double step_seconds = 0;
  // kSubmit, kFlush: the send buffer of a checkpoint (Buffers::Save), to carry
  // on with; may be null.
  std::shared_ptr<const std::string> restored;
  // The application says that its replica has drifted.
  bool drifted = false;
  Hash hash{};
  std::shared_ptr<const std::string> replica;
};

// Whether a request is a submission, or the last one of its parts.
inline bool Submits(const GroupSpec& spec, const Request& request) {
  return request.type == Request::kSubmit &&
         request.first + request.tensors.size() >= spec.tensors.size();
}

// Where a rank's application stands, as far as one group is concerned.
struct Standing {
  bool joined = false;
  bool ended = false;
  bool elsewhere = false; // waits for something else, or is inside excused()
  bool waits = false;     // for this group's submission, by poll or blocked
  bool blocked = false;   // blocked on it
};

struct Stats {
  int64_t rounds = 0; // executed, flushes included
  int64_t flushes = 0;
  int64_t fresh = 0, stale = 0, null = 0; // this rank's contributions
  int64_t late = 0;
  int64_t merged = 0; // rounds merged (latest: dropped) beyond the bound
  int64_t heals = 0;
  int64_t active_sum = 0; // active ranks, summed over rounds without flushes
  int64_t largest_staleness = 0; // most rounds that a submission found pending
  int64_t staleness_sum = 0;     // over `staleness_count` submissions
  int64_t staleness_count = 0;
  int64_t parts = 0;     // of rounds, reduced one after the other
  int64_t cut_short = 0; // submissions that were not there to the end of a round
};

// One group on one rank: what it holds, what it says in the exchange, and what
// a round does to it. Belongs to one thread.
class Group {
public:
  Group(GroupSpec spec, int rank, int size);

  const GroupSpec& spec() const { return spec_; }
  const Layout& layout() const { return *layout_; }
  const Stats& stats() const { return stats_; }
  int64_t next_round() const { return next_round_; }
  int64_t pending() const { return pending_rounds_; }
  bool holds() const { return holds_; }
  bool retired() const { return retired_; }
  Stage stage() const { return stage_; }
  const RankSet& participants() const { return participants_; }
  bool drifted() const { return merged_ || drifted_; }
  // Of policy auto; nullptr under every other.
  Tuner* tuner() { return tuner_.get(); }
  const Tuner* tuner() const { return tuner_.get(); }
  const Buffers& send_buffer() const { return *send_; } // holds()
  // A round has begun, and is not over.
  bool in_round() const { return round_ != nullptr; }
  // The bits of the exchange that are this group's, per rank.
  int says() const { return spec_.Parts() > 1 ? kSays : kSays - kSaysOfParts; }
  // The tensors, from the first one on, of a submission that is not there as a
  // whole and in no buffer yet.
  std::vector<const void*> staged() const;
  // A round's next part is this rank's to submit.
  bool holds_up() const {
    return in_round_ && submission_ == 0 && arrived_ <= part_;
  }
  const std::deque<std::shared_ptr<Round>>& receive_queue() const {
    return pending_;
  }

  // Takes a request between two rounds. Completions are appended to `done`.
  void Take(const Request& request, std::vector<Completion>& done);

  // Whether `ticket` still waits here.
  bool Waits(Ticket ticket) const;
  // Ends all waiting requests with an error.
  void Fail(Completion::Status status, const std::string& message,
            std::vector<Completion>& done);

  // What this rank says in the exchange: a bool for each Say.
  std::array<bool, kSays> Speak(const Standing& standing) const;

  // What only the group knows of the view that the exchange gave.
  void Complement(View& view) const;
  // Notes what the exchange said of heals, for the vetoes of the next one.
  // Whether there may be fewer of them then: the same on every rank.
  bool Heed(const View& view);

  // A round or a flush that was decided, or some parts of it. Begin gives what
  // was the send buffer (zeros for a null contribution), of which the parts
  // that go become the sum of all ranks' in place, unless the decision says
  // empty. Finish, after the last part, ends the round.
  Buffers& Begin(const Decision& decision);
  void Finish(const Decision& decision, std::vector<Completion>& done);

  // The check of a flush: this rank's hash (zeros when it takes no part), and
  // all ranks' hashes.
  Hash CheckHash() const;
  void FinishCheck(const Decision& decision, const std::vector<Hash>& hashes,
                   std::vector<Completion>& done);

  // The transfer: what the root offers (else nullptr), and what arrived.
  std::shared_ptr<const std::string> Offer() const;
  void FinishTransfer(const Decision& decision,
                      std::shared_ptr<const std::string> replica,
                      std::vector<Completion>& done);

private:
  // A rank vetoes the next round when it is not ready, cannot be excused, and
  // is needed or at its bound; and while a heal is due, as the two flags of
  // the last exchange say.
  bool Vetoes(const Standing& standing) const;
  bool Excused(const Standing& standing) const;
  bool Apart(const Standing& standing) const;
  bool Needed() const;
  // A submission in parts of which some have come, and more are to come.
  bool Incomplete() const { return !tensors_.empty(); }
  // An incomplete submission's rank waits for others. A round does not wait
  // for the parts to come.
  bool CutShort(const Standing& standing) const;
  bool Ready(const Standing& standing) const;
  // A submission that finds pending rounds does not return with them at once.
  bool WaitsWithPending() const;
  void Submit(const Request& request, std::vector<Completion>& done);
  void EndSubmission(Ticket ticket, std::vector<Completion>& done);
  // Puts parts of the submission, from the first one that is in no buffer up to
  // `end`, into the round under way or the send buffer.
  void Move(int end);
  std::vector<const void*> TensorsOf(int begin, int end) const;
  void AddToRound(int part);
  // The send buffer; where it holds nothing, with any values.
  Buffers& SendBuffer();
  void AddToSendBuffer(int begin, int end);
  void Restore(const Request& request);
  // Who asks for anything else has left the heal under way, by an error.
  void LeaveHeal();
  void Enqueue(std::shared_ptr<Round> round);
  void MergeOldest();
  void EndFlush(std::vector<std::shared_ptr<Round>> rounds, bool again,
                std::vector<Completion>& done);
  std::vector<std::shared_ptr<Round>> TakePending();
  void Count(const Decision& decision);

  const GroupSpec spec_;
  const int rank_;
  const int size_;
  std::shared_ptr<const Layout> layout_;
  BufferPool pool_;

  int64_t next_round_ = 0;
  // A round's result is the send buffer that took part in it, and a new one
  // comes with the next submission.
  std::shared_ptr<Buffers> send_;
  bool holds_ = false;
  std::shared_ptr<Buffers> round_; // under way; else nullptr
  std::vector<bool> round_holds_;  // by part; where not, it has any values
  int part_ = 0; // the next one of it
  RankSet active_, stale_;
  int sole_ = -1;
  std::deque<std::shared_ptr<Round>> pending_;
  int64_t pending_rounds_ = 0;

  Ticket submission_ = 0; // whole, and waits for a round
  // An incomplete submission: what has come of it.
  std::vector<const void*> tensors_;
  int arrived_ = 0; // parts
  int moved_ = 0;   // of these, in a buffer
  bool in_round_ = false; // the submission is part of the round under way
  bool spent_ = false;    // or was of one that ended before its last part came
  Ticket flush_ = 0;      // in flush(), or in join() with `listens_`
  bool listens_ = false;
  bool serves_ = false; // in join(), the application applies this group's rounds
  bool retired_ = false;

  bool drifted_ = false;
  bool merged_ = false;
  int64_t last_heal_ = 0;
  // As of the last exchange: a heal is due, and (the first) no rank is excused
  // and not ready, or (the second) no rank is excused that does not wait for
  // this very round.
  bool heal_waits_for_ready_ = false;
  bool heal_waits_for_blocked_ = false;

  Stage stage_ = Stage::kRounds;
  RankSet participants_;
  int root_ = 0;
  bool left_heal_ = false; // this rank, by asking for something else
  Ticket sync_ = 0;
  Hash hash_{};
  Ticket offer_ = 0;
  std::shared_ptr<const std::string> offered_;
  Ticket receive_ = 0;
  std::shared_ptr<const std::string> received_; // before anybody asked

  Stats stats_;
  std::unique_ptr<Tuner> tuner_;
};

} // namespace horovod_partial

#endif // HOROVOD_PARTIAL_CORE_GROUP_H
