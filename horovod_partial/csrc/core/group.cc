// Copyright 2026 The horovod-partial authors. Licensed under Apache-2.0.

#include "group.h"

#include <algorithm>

namespace horovod_partial {
namespace {

Completion Answer(Ticket ticket) {
  Completion completion;
  completion.ticket = ticket;
  return completion;
}

Completion Refusal(Ticket ticket, Completion::Status status,
                   const std::string& message) {
  Completion completion = Answer(ticket);
  completion.status = status;
  completion.message = message;
  return completion;
}

// Makes `newer` stand for both rounds, with the sum of the results.
void MergeInto(Round& newer, const Round& older) {
  older.result->Add(*newer.result);
  newer.result = older.result;
  newer.count += older.count;
  newer.empty = newer.empty && older.empty;
}

} // namespace

Group::Group(GroupSpec spec, int rank, int size)
    : spec_(std::move(spec)), rank_(rank), size_(size),
      layout_(std::make_shared<const Layout>(spec_.tensors, spec_.parts)),
      pool_(layout_), active_(size), stale_(size), participants_(size) {
  if (spec_.policy.kind == PolicyKind::kAuto) {
    tuner_ = std::make_unique<Tuner>(rank, size, spec_.staleness_bound,
                                     spec_.policy.staleness_cost);
  }
}

Buffers& Group::SendBuffer() {
  if (!send_) {
    send_ = pool_.Take();
  }
  return *send_;
}

std::vector<const void*> Group::TensorsOf(int begin, int end) const {
  return {tensors_.begin() + layout_->PartBegin(begin),
          tensors_.begin() + layout_->PartBegin(end)};
}

void Group::AddToSendBuffer(int begin, int end) {
  const auto tensors = TensorsOf(begin, end);
  if (!holds_ && end - begin < layout_->parts()) {
    SendBuffer().Zero(0, layout_->parts());
    holds_ = true;
  }
  if (holds_) {
    send_->AddIn(tensors, layout_->PartBegin(begin));
  } else {
    SendBuffer().CopyIn(tensors);
  }
  holds_ = true;
}

void Group::AddToRound(int part) {
  const auto tensors = TensorsOf(part, part + 1);
  const size_t first = layout_->PartBegin(part);
  if (round_holds_[part]) {
    round_->AddIn(tensors, first);
  } else {
    round_->CopyIn(tensors, first);
  }
  round_holds_[part] = true;
}

void Group::Move(int end) {
  // What comes after the round has passed its part goes with the next one.
  const int next = in_round_ ? std::min(std::max(part_, moved_), end) : end;
  if (moved_ < next) {
    AddToSendBuffer(moved_, next);
  }
  for (moved_ = std::max(moved_, next); moved_ < end; ++moved_) {
    AddToRound(moved_);
  }
}

std::vector<const void*> Group::staged() const {
  return moved_ == 0 ? tensors_ : std::vector<const void*>();
}

void Group::Restore(const Request& request) {
  if (request.restored) {
    if (!holds_) {
      SendBuffer().Zero(0, layout_->parts());
    }
    send_->AddSaved(*request.restored);
    holds_ = true;
  }
}

void Group::Take(const Request& request, std::vector<Completion>& done) {
  if (request.restored &&
      static_cast<int64_t>(request.restored->size()) != layout_->total_bytes()) {
    done.push_back(Refusal(
        request.ticket, Completion::kInvalid,
        "group '" + spec_.name + "': a checkpoint's send buffer has " +
            std::to_string(request.restored->size()) + " bytes, but this " +
            "group has " + std::to_string(layout_->total_bytes()) +
            ": were its tensors or its compression others?"));
    return;
  }
  drifted_ = drifted_ || request.drifted;
  if (request.type == Request::kSubmit || request.type == Request::kFlush ||
      request.type == Request::kListen) {
    LeaveHeal();
  }
  switch (request.type) {
  case Request::kSubmit: {
    if (submission_ != 0 || request.first != tensors_.size()) {
      if (request.ticket != 0) {
        done.push_back(Refusal(
            request.ticket, Completion::kDuplicate,
            "group '" + spec_.name +
                "' has a submission outstanding on this rank: wait for it "
                "(synchronize) before the next one"));
      }
      return;
    }
    if (listens_ && flush_ != 0) {
      EndFlush({}, true, done);
    }
    serves_ = false;
    if (tuner_) {
      tuner_->NoteStep(request.step_seconds);
    }
    Restore(request);
    Submit(request, done);
    return;
  }
  case Request::kFlush:
  case Request::kListen:
    if (flush_ != 0) {
      EndFlush({}, true, done);
    }
    Restore(request);
    flush_ = request.ticket;
    listens_ = request.type == Request::kListen;
    serves_ = listens_;
    if (!pending_.empty()) {
      EndFlush(TakePending(), true, done);
    }
    return;
  case Request::kSync:
    if (stage_ != Stage::kCheck || left_heal_) {
      done.push_back(Answer(request.ticket));
      return;
    }
    sync_ = request.ticket;
    hash_ = request.hash;
    return;
  case Request::kOffer:
    if (stage_ != Stage::kTransfer || left_heal_) {
      done.push_back(Answer(request.ticket));
      return;
    }
    offer_ = request.ticket;
    offered_ = request.replica;
    return;
  case Request::kReceive:
    if (received_ || stage_ != Stage::kTransfer || left_heal_) {
      done.push_back(Answer(request.ticket));
      done.back().replica = std::move(received_);
      received_.reset();
    } else {
      receive_ = request.ticket;
    }
    return;
  case Request::kRetire:
    Fail(Completion::kInvalid, "group '" + spec_.name + "' was given up", done);
    retired_ = true;
    Move(arrived_);
    tensors_.clear();
    arrived_ = moved_ = 0;
    spent_ = false;
    pending_.clear();
    pending_rounds_ = 0;
    done.push_back(Answer(request.ticket));
    return;
  case Request::kUnlisten:
    if (listens_ && flush_ != 0) {
      EndFlush({}, true, done);
    }
    serves_ = false;
    done.push_back(Answer(request.ticket));
    return;
  }
}

void Group::LeaveHeal() {
  const bool leaves =
      participants_.Has(rank_) &&
      ((stage_ == Stage::kCheck && sync_ == 0) ||
       (stage_ == Stage::kTransfer && offer_ == 0 && receive_ == 0));
  left_heal_ = left_heal_ || leaves;
  drifted_ = drifted_ || leaves || received_;
  received_.reset();
}

void Group::Submit(const Request& request, std::vector<Completion>& done) {
  tensors_.insert(tensors_.end(), request.tensors.begin(),
                  request.tensors.end());
  while (arrived_ < layout_->parts() &&
         layout_->PartBegin(arrived_ + 1) <= tensors_.size()) {
    ++arrived_;
  }
  const bool whole = arrived_ == layout_->parts();
  // Until it is whole, it is in no buffer, so that no round carries half of
  // it: but for rounds that have begun with it.
  if (whole || in_round_ || spent_) {
    Move(arrived_);
  }
  if (whole) {
    EndSubmission(request.ticket, done);
  }
}

void Group::EndSubmission(Ticket ticket, std::vector<Completion>& done) {
  tensors_.clear();
  arrived_ = moved_ = 0;
  spent_ = false;
  ++stats_.staleness_count;
  stats_.staleness_sum += pending_rounds_;
  stats_.largest_staleness =
      std::max(stats_.largest_staleness, pending_rounds_);
  if (!pending_.empty()) {
    ++stats_.late;
    if (!in_round_ && !WaitsWithPending()) {
      done.push_back(Answer(ticket));
      done.back().rounds = TakePending();
      return;
    }
  }
  submission_ = ticket;
}

// Under full, ranks stay in step: rounds that ran while this one had joined
// come with the next one, as every rank waits for it.
bool Group::WaitsWithPending() const {
  return heal_waits_for_ready_ || spec_.policy.kind == PolicyKind::kFull;
}

bool Group::CutShort(const Standing& standing) const {
  return Incomplete() && (flush_ != 0 || Excused(standing));
}

bool Group::Ready(const Standing& standing) const {
  if (submission_ != 0) {
    return true;
  }
  if (!Incomplete() || spent_) {
    return false;
  }
  const bool late = !in_round_ && (in_round() || !pending_.empty()) &&
                    !WaitsWithPending();
  return in_round_ || (!late && !CutShort(standing));
}

bool Group::Waits(Ticket ticket) const {
  return ticket != 0 && (ticket == submission_ || ticket == flush_ ||
                         ticket == sync_ || ticket == offer_ ||
                         ticket == receive_);
}

void Group::Fail(Completion::Status status, const std::string& message,
                 std::vector<Completion>& done) {
  for (Ticket* ticket :
       {&submission_, &flush_, &sync_, &offer_, &receive_}) {
    if (*ticket != 0) {
      done.push_back(Refusal(*ticket, status, message));
      *ticket = 0;
    }
  }
}

void Group::EndFlush(std::vector<std::shared_ptr<Round>> rounds, bool again,
                     std::vector<Completion>& done) {
  done.push_back(Answer(flush_));
  done.back().rounds = std::move(rounds);
  done.back().again = again;
  flush_ = 0;
}

bool Group::Needed() const {
  switch (spec_.policy.kind) {
  case PolicyKind::kFull:
    return true;
  case PolicyKind::kMajority:
  case PolicyKind::kQuorum:
    return DrawCommittee(spec_.seed, spec_.name, next_round_, spec_.policy.k,
                         size_)
        .Has(rank_);
  default:
    return false;
  }
}

bool Group::Excused(const Standing& standing) const {
  if (standing.ended || retired_) {
    return true;
  }
  if (standing.joined) {
    // An application in join() that applies rounds is computing.
    return !serves_ || flush_ != 0;
  }
  return spec_.policy.kind != PolicyKind::kFull &&
         (standing.elsewhere || (flush_ != 0 && !listens_));
}

bool Group::Apart(const Standing& standing) const {
  return standing.ended || retired_ || left_heal_ ||
         (standing.joined && !serves_);
}

bool Group::Vetoes(const Standing& standing) const {
  const bool ready = Ready(standing);
  if (heal_waits_for_ready_ && !ready) {
    return true;
  }
  if (heal_waits_for_blocked_ && !(ready && standing.waits)) {
    return true;
  }
  return !ready && !Excused(standing) &&
         (pending_rounds_ >= spec_.staleness_bound || Needed());
}

std::array<bool, kSays> Group::Speak(const Standing& standing) const {
  std::array<bool, kSays> says{};
  auto say = [&](Say what, bool value) {
    says[static_cast<int>(what)] = value;
  };
  const bool ready = Ready(standing);
  const bool apart = Apart(standing);
  // join() counts as flush() once this rank has really joined.
  const bool flushing = flush_ != 0 && (!listens_ || standing.joined);
  say(Say::kVeto, Vetoes(standing));
  say(Say::kReady, ready);
  say(Say::kExcused, Excused(standing));
  // With a heal due, a late submission may wait with rounds that it will add
  // up or skip.
  const bool will_drift = ready && !pending_.empty() &&
                          spec_.catch_up != CatchUp::kReplay;
  say(Say::kDrifted, (drifted() || will_drift) && !apart);
  say(Say::kMerged, merged_ && !apart);
  say(Say::kBlocked, submission_ != 0 && standing.blocked);
  say(Say::kHolds, holds_ || ready);
  say(Say::kFlushing, flushing && !apart);
  say(Say::kCaller, flushing && !apart && !listens_);
  say(Say::kApart, apart);
  say(Say::kRetired, retired_);
  say(Say::kSynced,
      stage_ == Stage::kTransfer ? offer_ != 0 : sync_ != 0);
  say(Say::kNext, in_round_ && (!holds_up() || CutShort(standing) || retired_));
  say(Say::kWhole, submission_ != 0);
  return says;
}

void Group::Complement(View& view) const {
  view.round = next_round_;
  view.last_heal = last_heal_;
  view.k = tuner_ ? tuner_->k() : spec_.policy.k;
  view.stage = stage_;
  view.participants = participants_;
  view.root = root_;
  view.part = part_;
  view.active = active_;
  view.stale = stale_;
  view.sole = sole_;
}

bool Group::Heed(const View& view) {
  const bool ready_before = heal_waits_for_ready_;
  const bool blocked_before = heal_waits_for_blocked_;
  const bool due = HealDue(spec_, view);
  heal_waits_for_ready_ =
      due && (view[Say::kExcused] - view[Say::kReady]).Empty();
  heal_waits_for_blocked_ =
      due && (view[Say::kExcused] - view[Say::kBlocked]).Empty();
  return (ready_before && !heal_waits_for_ready_) ||
         (blocked_before && !heal_waits_for_blocked_);
}

Buffers& Group::Begin(const Decision& decision) {
  if (decision.begin_part == 0) {
    active_ = decision.active;
    stale_ = decision.stale;
    sole_ = decision.sole;
    in_round_ = decision.active.Has(rank_);
    SendBuffer();
    round_ = std::move(send_);
    round_holds_.assign(layout_->parts(), holds_);
    holds_ = false;
    if (in_round_) {
      Move(arrived_);
    }
  }
  for (int part = decision.begin_part; part < decision.end_part; ++part) {
    if (!round_holds_[part]) {
      round_->Zero(part, part + 1);
    }
  }
  return *round_;
}

void Group::Count(const Decision& decision) {
  ++stats_.rounds;
  const bool active =
      decision.kind == Kind::kRound && decision.active.Has(rank_);
  ++(active ? stats_.fresh
            : round_holds_.front() ? stats_.stale : stats_.null);
  if (decision.kind == Kind::kFlush) {
    ++stats_.flushes;
  } else {
    stats_.active_sum += decision.active.Count();
  }
}

void Group::MergeOldest() {
  Round& older = *pending_[0];
  Round& newer = *pending_[1];
  ++stats_.merged;
  if (spec_.catch_up == CatchUp::kLatest) {
    newer.count += older.count;
    drifted_ = true;
  } else {
    MergeInto(newer, older);
    merged_ = true;
  }
  pending_.pop_front();
}

void Group::Enqueue(std::shared_ptr<Round> round) {
  pending_rounds_ += round->count;
  pending_.push_back(std::move(round));
  // Only an excused rank gets here past its bound: others veto.
  if (static_cast<int64_t>(pending_.size()) > spec_.staleness_bound) {
    MergeOldest();
  }
}

std::vector<std::shared_ptr<Round>> Group::TakePending() {
  if (spec_.catch_up != CatchUp::kReplay && pending_.size() > 1) {
    drifted_ = true;
    for (size_t i = 1; i < pending_.size(); ++i) {
      if (spec_.catch_up == CatchUp::kSum) {
        MergeInto(*pending_[i], *pending_[i - 1]);
      } else {
        pending_[i]->count += pending_[i - 1]->count;
      }
    }
    pending_.erase(pending_.begin(), pending_.end() - 1);
  }
  std::vector<std::shared_ptr<Round>> rounds(pending_.begin(), pending_.end());
  pending_.clear();
  pending_rounds_ = 0;
  return rounds;
}

void Group::Finish(const Decision& decision, std::vector<Completion>& done) {
  part_ = decision.end_part;
  stats_.parts += decision.end_part - decision.begin_part;
  if (part_ < layout_->parts()) {
    return;
  }
  part_ = 0;
  Count(decision);
  auto round = std::make_shared<Round>();
  round->index = next_round_++;
  round->active = decision.active.ToVector();
  round->flush = decision.kind == Kind::kFlush;
  round->empty = decision.empty;
  round->result = std::move(round_);
  const bool active = in_round_;
  in_round_ = false;
  if (active && Incomplete()) {
    spent_ = true;
    ++stats_.cut_short;
  }

  const bool heals =
      decision.heal ||
      (round->flush && spec_.healing != Healing::kNever && size_ > 1);
  if (heals) {
    stage_ = round->flush ? Stage::kCheck : Stage::kTransfer;
    participants_ = decision.participants;
    root_ = decision.root;
    received_.reset();
  }

  if (retired_) {
    return;
  }
  // Who was not there in time when it began has waited for its end.
  if (submission_ != 0 && (active || !WaitsWithPending())) {
    stats_.late += active ? 0 : 1;
    // It may have waited with pending rounds for a heal.
    pending_.push_back(std::move(round));
    done.push_back(Answer(submission_));
    done.back().rounds = TakePending();
    done.back().heal = heals;
    done.back().root = root_;
    submission_ = 0;
    return;
  }
  const bool flushed = round->flush && decision.participants.Has(rank_);
  Enqueue(std::move(round));
  if (flush_ != 0) {
    EndFlush(TakePending(), !flushed, done);
    done.back().heal = flushed && heals;
  }
}

Hash Group::CheckHash() const { return sync_ != 0 ? hash_ : Hash{}; }

void Group::FinishCheck(const Decision& decision,
                        const std::vector<Hash>& hashes,
                        std::vector<Completion>& done) {
  participants_ = decision.participants;
  const auto ranks = participants_.ToVector();
  const bool differed =
      std::any_of(ranks.begin(), ranks.end(), [&](int rank) {
        return hashes[rank] != hashes[ranks.front()];
      });
  const bool heal = differed || decision.heal;
  stage_ = heal ? Stage::kTransfer : Stage::kRounds;
  left_heal_ = left_heal_ && heal;
  received_.reset();
  root_ = decision.root;
  last_heal_ = next_round_;
  if (sync_ != 0) {
    done.push_back(Answer(sync_));
    done.back().heal = heal;
    done.back().root = root_;
    done.back().differed = differed && !decision.heal;
    sync_ = 0;
  }
}

std::shared_ptr<const std::string> Group::Offer() const { return offered_; }

void Group::FinishTransfer(const Decision& decision,
                           std::shared_ptr<const std::string> replica,
                           std::vector<Completion>& done) {
  stage_ = Stage::kRounds;
  left_heal_ = false;
  if (decision.empty) {
    // What made the heal due still does.
    for (Ticket* ticket : {&offer_, &receive_}) {
      if (*ticket != 0) {
        done.push_back(Answer(*ticket));
        *ticket = 0;
      }
    }
    offered_.reset();
    return;
  }
  last_heal_ = next_round_;
  if (!decision.participants.Has(rank_) && offer_ == 0 && receive_ == 0) {
    return;
  }
  drifted_ = merged_ = false;
  ++stats_.heals;
  if (offer_ != 0) {
    done.push_back(Answer(offer_));
    offer_ = 0;
    offered_.reset();
  } else if (receive_ != 0) {
    done.push_back(Answer(receive_));
    done.back().replica = std::move(replica);
    receive_ = 0;
  } else {
    received_ = std::move(replica);
  }
}

} // namespace horovod_partial
