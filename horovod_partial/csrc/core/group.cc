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
      layout_(std::make_shared<const Layout>(spec_.tensors)), pool_(layout_),
      participants_(size) {
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

void Group::AddToSendBuffer(const std::vector<const void*>& tensors) {
  if (holds_) {
    send_->AddIn(tensors);
  } else {
    SendBuffer().CopyIn(tensors);
  }
  holds_ = true;
}

void Group::Restore(const Request& request) {
  if (request.restored) {
    if (!holds_) {
      SendBuffer().Zero();
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
  switch (request.type) {
  case Request::kSubmit: {
    if (submission_ != 0) {
      done.push_back(Refusal(
          request.ticket, Completion::kDuplicate,
          "group '" + spec_.name +
              "' has a submission outstanding on this rank: wait for it "
              "(synchronize) before the next one"));
      return;
    }
    if (listens_ && flush_ != 0) {
      EndFlush({}, true, done);
    }
    serves_ = false;
    if (tuner_) {
      tuner_->NoteStep(request.step_seconds);
    }
    AddToSendBuffer(request.tensors);
    Restore(request);
    ++stats_.staleness_count;
    stats_.staleness_sum += pending_rounds_;
    stats_.largest_staleness =
        std::max(stats_.largest_staleness, pending_rounds_);
    if (!pending_.empty()) {
      ++stats_.late;
      // Under full, ranks stay in step: rounds that ran while this one had
      // joined come with the next one, as every rank waits for it.
      if (!heal_waits_for_ready_ &&
          spec_.policy.kind != PolicyKind::kFull) {
        done.push_back(Answer(request.ticket));
        done.back().rounds = TakePending();
        return;
      }
    }
    submission_ = request.ticket;
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
    sync_ = request.ticket;
    hash_ = request.hash;
    return;
  case Request::kOffer:
    offer_ = request.ticket;
    offered_ = request.replica;
    return;
  case Request::kReceive:
    if (received_) {
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
  return standing.ended || retired_ || (standing.joined && !serves_);
}

bool Group::Vetoes(const Standing& standing) const {
  const bool ready = submission_ != 0;
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
  const bool ready = submission_ != 0;
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
  say(Say::kBlocked, ready && standing.blocked);
  say(Say::kHolds, holds_);
  say(Say::kFlushing, flushing && !apart);
  say(Say::kCaller, flushing && !apart && !listens_);
  say(Say::kApart, apart);
  say(Say::kRetired, retired_);
  say(Say::kSynced,
      stage_ == Stage::kTransfer ? offer_ != 0 : sync_ != 0);
  return says;
}

void Group::Complement(View& view) const {
  view.round = next_round_;
  view.last_heal = last_heal_;
  view.k = tuner_ ? tuner_->k() : spec_.policy.k;
  view.stage = stage_;
  view.participants = participants_;
  view.root = root_;
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

Buffers& Group::Begin() {
  if (!holds_) {
    SendBuffer().Zero();
  }
  return *send_;
}

void Group::Count(const Decision& decision) {
  ++stats_.rounds;
  const bool active =
      decision.kind == Kind::kRound && decision.active.Has(rank_);
  ++(active ? stats_.fresh : holds_ ? stats_.stale : stats_.null);
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
  Count(decision);
  auto round = std::make_shared<Round>();
  round->index = next_round_++;
  round->active = decision.active.ToVector();
  round->flush = decision.kind == Kind::kFlush;
  round->empty = decision.empty;
  round->result = std::move(send_);
  holds_ = false;

  const bool heals =
      decision.heal ||
      (round->flush && spec_.healing != Healing::kNever && size_ > 1);
  if (heals) {
    stage_ = round->flush ? Stage::kCheck : Stage::kTransfer;
    participants_ = decision.participants;
    root_ = decision.root;
  }

  if (retired_) {
    return;
  }
  if (submission_ != 0) {
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
  const auto ranks = participants_.ToVector();
  const bool differed =
      std::any_of(ranks.begin(), ranks.end(), [&](int rank) {
        return hashes[rank] != hashes[ranks.front()];
      });
  const bool heal = differed || decision.heal;
  stage_ = heal ? Stage::kTransfer : Stage::kRounds;
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

void Group::FinishTransfer(const Decision&,
                           std::shared_ptr<const std::string> replica,
                           std::vector<Completion>& done) {
  stage_ = Stage::kRounds;
  last_heal_ = next_round_;
  if (!participants_.Has(rank_)) {
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
