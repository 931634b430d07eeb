// Copyright 2026 The horovod-partial authors. Licensed under Apache-2.0.

#include "member.h"

#include <algorithm>

#include "wire.h"

namespace horovod_partial {
namespace {

// The bits of an exchange, written or read one after the other.
class BitWriter {
public:
  explicit BitWriter(size_t bits) : words_((bits + 63) / 64, 0) {}
  void Put(bool bit) {
    words_[at_ / 64] |= static_cast<uint64_t>(bit) << (at_ % 64);
    ++at_;
  }
  void Skip(size_t bits) { at_ += bits; }
  void PutNumber(uint64_t number, int bits) {
    for (int bit = 0; bit < bits; ++bit) {
      Put((number >> bit) & 1);
    }
  }
  std::vector<uint64_t> Take() { return std::move(words_); }

private:
  std::vector<uint64_t> words_;
  size_t at_ = 0;
};

class BitReader {
public:
  explicit BitReader(const std::vector<uint64_t>& words) : words_(words) {}
  bool Get() {
    const bool bit = (words_[at_ / 64] >> (at_ % 64)) & 1;
    ++at_;
    return bit;
  }
  uint64_t GetNumber(int bits) {
    uint64_t number = 0;
    for (int bit = 0; bit < bits; ++bit) {
      number |= static_cast<uint64_t>(Get()) << bit;
    }
    return number;
  }
  RankSet GetSet(int size) {
    RankSet set(size);
    for (int rank = 0; rank < size; ++rank) {
      if (Get()) {
        set.Add(rank);
      }
    }
    return set;
  }

private:
  const std::vector<uint64_t>& words_;
  size_t at_ = 0;
};

} // namespace

Member::Member(int rank, int size, int64_t most_bytes)
    : rank_(rank), size_(size), most_bytes_(most_bytes), ended_(size),
      drained_(size), left_outstanding_(size), lost_without_(size) {}

std::shared_ptr<Group> Member::Find(const std::string& name) const {
  for (const auto& group : groups_) {
    if (group->spec().name == name) {
      return group;
    }
  }
  return nullptr;
}

const View& Member::LastView(const std::string& name) const {
  return views_.at(name);
}

const Decision& Member::LastDecision(const std::string& name) const {
  return last_.at(name);
}

std::vector<Member::Waiting> Member::Waits() const {
  std::vector<Waiting> waits;
  for (const auto& entry : last_) {
    if (entry.second.kind == Kind::kWait &&
        !entry.second.waited_for.Empty()) {
      waits.push_back({entry.first, views_.at(entry.first).round});
    }
  }
  for (const auto& entry : unannounced_) {
    waits.push_back({entry.first, -1});
  }
  return waits;
}

std::string Member::Explain(const std::string& name) const {
  auto unannounced = unannounced_.find(name);
  if (unannounced != unannounced_.end()) {
    return "Partial group '" + name + "': its first round waits for rank " +
           unannounced->second.ToString() + ", which has not submitted to it.";
  }
  auto last = last_.find(name);
  return last == last_.end()
             ? "Partial group '" + name + "': nobody waits."
             : horovod_partial::Explain(Find(name)->spec(), views_.at(name),
                                        last->second);
}

void Member::Ask(const std::string& name,
                 std::shared_ptr<const GroupSpec> spec, Request request) {
  auto group = Find(name);
  const bool agrees = group && (!spec || Mismatch(group->spec(), 0, *spec,
                                                  rank_).empty());
  // A new group of an old one's name waits until the old one is gone; and who
  // has yet to hear of a failure asks for what failed, not for this group.
  const bool asks = request.type == Request::kSubmit ||
                    request.type == Request::kFlush;
  if (group && agrees && !(asks && Untold(name, rank_)) &&
      (!group->retired() || request.type == Request::kRetire)) {
    group->Take(request, completed_);
    return;
  }
  if (request.type == Request::kUnlisten) {
    RefuseListeners(name);
    completed_.emplace_back();
    completed_.back().ticket = request.ticket;
    return;
  }
  auto& held = held_[name];
  if (request.type == Request::kRetire && sent_.count(name) == 0) {
    held.push_back({spec, request});
    RefuseHeld(name, "the group was given up before its first round");
    completed_.back() = Completion();
    completed_.back().ticket = request.ticket;
    return;
  }
  for (const auto& other : held) {
    if (other.spec && Submits(*other.spec, other.request) &&
        request.type == Request::kSubmit) {
      if (request.ticket == 0) {
        return;
      }
      Completion refusal;
      refusal.ticket = request.ticket;
      refusal.status = Completion::kDuplicate;
      refusal.message = "group '" + name +
                        "' has a submission outstanding on this rank: wait "
                        "for it (synchronize) before the next one";
      completed_.push_back(std::move(refusal));
      return;
    }
  }
  held.push_back({std::move(spec), std::move(request)});
}

void Member::RefuseListeners(const std::string& name) {
  auto found = held_.find(name);
  if (found == held_.end()) {
    return;
  }
  auto& held = found->second;
  for (auto entry = held.begin(); entry != held.end();) {
    if (entry->request.type == Request::kListen) {
      completed_.emplace_back();
      completed_.back().ticket = entry->request.ticket;
      completed_.back().again = true;
      entry = held.erase(entry);
    } else {
      ++entry;
    }
  }
  if (held.empty()) {
    held_.erase(found);
  }
}

std::string Member::NameOf(Ticket ticket) const {
  for (const auto& group : groups_) {
    if (group->Waits(ticket)) {
      return group->spec().name;
    }
  }
  for (const auto& entry : held_) {
    for (const auto& held : entry.second) {
      if (held.request.ticket == ticket) {
        return entry.first;
      }
    }
  }
  return "";
}

bool Member::Announces(const std::string& name) const {
  auto group = Find(name);
  if (group && group->retired()) {
    return false;
  }
  auto held = held_.find(name);
  // A rank in join() listens to groups that it may never have heard of.
  return held != held_.end() &&
         std::any_of(held->second.begin(), held->second.end(),
                     [](const Held& h) {
                       return h.request.type == Request::kFlush ||
                              (h.spec && Submits(*h.spec, h.request));
                     });
}

Standing Member::StandingFor(const Group& group) const {
  Standing standing;
  standing.joined = app_.joined || app_.over;
  standing.ended = Ended();
  standing.elsewhere = app_.elsewhere;
  for (const auto& wait : app_.waits) {
    if (group.Waits(wait.ticket)) {
      standing.waits = true;
      standing.blocked = standing.blocked || wait.blocked;
    } else if (!NameOf(wait.ticket).empty()) {
      standing.elsewhere = true;
    }
  }
  return standing;
}

std::vector<uint64_t> Member::Snapshot(const AppState& app) {
  app_ = app;
  size_t length = HeadOf(size_);
  for (const auto& group : groups_) {
    length += group->says() * size_ +
              (group->tuner() ? kVerdictBits + size_ * kStepBits : 0);
  }
  BitWriter bits(length);
  // Who joins or ends will not ask for what has failed.
  bits.Put(((app.joined || app.over) && UntoldOfAny(rank_)) ||
           app.left != said_left_ ||
           std::any_of(held_.begin(), held_.end(), [this](const auto& entry) {
             return Announces(entry.first);
           }));
  auto own = [&](bool value) {
    bits.Skip(rank_);
    bits.Put(value);
    bits.Skip(size_ - rank_ - 1);
  };
  spoken_ = Speak();
  own(spoken_.ended);
  own(spoken_.drained);
  for (const auto& group : groups_) {
    const auto& said = spoken_.groups.at(group->spec().name);
    for (int say = 0; say < group->says(); ++say) {
      own(said[say]);
    }
  }
  for (const auto& group : groups_) {
    if (const Tuner* tuner = group->tuner()) {
      bits.PutNumber(tuner->VerdictToSay(), kVerdictBits);
      bits.Skip(rank_ * kStepBits);
      bits.PutNumber(tuner->StepToSay(), kStepBits);
      bits.Skip((size_ - rank_ - 1) * kStepBits);
    }
  }
  return bits.Take();
}

Member::Spoken Member::Speak() const {
  Spoken spoken;
  spoken.ended = Ended();
  spoken.drained = Drained();
  for (const auto& group : groups_) {
    spoken.groups.emplace(group->spec().name,
                          group->Speak(StandingFor(*group)));
  }
  return spoken;
}

bool Member::Drained() const {
  // A round that has begun is brought to its end.
  return Ended() && (app_.quiet || cycles_over_ >= kLastCycles) &&
         std::none_of(groups_.begin(), groups_.end(),
                      [](const auto& group) { return group->in_round(); });
}

bool Member::Lost(const std::string& operation) const {
  const auto ranks = lost_without_.ToVector();
  return std::any_of(ranks.begin(), ranks.end(), [&](int rank) {
    return left_outstanding_[rank].count(operation) == 0;
  });
}

std::unique_ptr<Question>
Member::NextQuestion(std::shared_ptr<Group>* asker) {
  const auto last =
      std::find(groups_.begin(), groups_.end(), last_asker_.lock());
  const size_t first = last == groups_.end() ? 0 : last - groups_.begin() + 1;
  for (size_t i = 0; i < groups_.size(); ++i) {
    const auto& group = groups_[(first + i) % groups_.size()];
    auto question = group->tuner() ? group->tuner()->Ask() : nullptr;
    if (question) {
      *asker = group;
      last_asker_ = group;
      return question;
    }
  }
  return nullptr;
}

void Member::EndCycle() {
  // By now, who has ended has told what it left.
  lost_without_ = ended_;
  settled_ = Speak();
  // With the end of a flush, a submission of which some parts are there is
  // ready again, which no exchange has told yet.
  constexpr auto ready = static_cast<int>(Say::kReady);
  for (auto& entry : settled_.groups) {
    const auto said = spoken_.groups.find(entry.first);
    entry.second[ready] = entry.second[ready] &&
                          said != spoken_.groups.end() && said->second[ready];
  }
}

Want Member::WantOf(const Group& group, const std::array<bool, kSays>& now,
                    const std::array<bool, kSays>& before) const {
  auto said = [](const auto& says, Say what) {
    return says[static_cast<int>(what)];
  };
  auto news = [&](Say what) { return said(now, what) && !said(before, what); };
  const GroupSpec& spec = group.spec();
  const bool full = spec.policy.kind == PolicyKind::kFull;
  const bool unvetoes =
      !said(now, Say::kVeto) && said(before, Say::kVeto);
  if (news(Say::kApart) || news(Say::kRetired) || news(Say::kNext) ||
      (unvetoes && !full)) {
    return Want::kNow;
  }
  auto found = views_.find(spec.name);
  if (found == views_.end()) {
    return Want::kNow;
  }
  const View& view = found->second;
  const RankSet committee =
      spec.policy.kind == PolicyKind::kMajority ||
              spec.policy.kind == PolicyKind::kQuorum
          ? DrawCommittee(spec.seed, spec.name, group.next_round(),
                          spec.policy.k, size_)
          : RankSet(size_);
  const bool member = committee.Has(rank_);
  // A committee that is still to come will say so itself, with a cycle in which
  // this rank's readiness is heard. So excuses of its members are always told.
  const bool heard_later =
      !member && !HealDue(spec, view) &&
      !(committee - view[Say::kReady] - view[Say::kExcused]).Empty();
  if (news(Say::kReady) && !full && !heard_later) {
    return Want::kNow;
  }
  if (news(Say::kExcused) && (member || !view[Say::kReady].Empty())) {
    return Want::kNow;
  }
  const bool of_all = group.stage() == Stage::kCheck &&
                      group.participants().Full();
  if (news(Say::kSynced) && !of_all) {
    return Want::kNow;
  }
  // These need every rank.
  if ((full && (news(Say::kReady) || unvetoes)) || news(Say::kFlushing) ||
      news(Say::kCaller) || news(Say::kSynced)) {
    return Want::kTogether;
  }
  for (Say what : {Say::kReady, Say::kFlushing, Say::kApart, Say::kRetired,
                   Say::kSynced}) {
    if (said(now, what)) {
      return Want::kAlong;
    }
  }
  return Want::kNothing;
}

Want Member::Wants(bool operations, bool of_all) const {
  Want want = WantOfGroups();
  if (!app_.quiet) {
    // It needs every rank; one that has ended is none that comes along with it.
    want = std::max(want, !operations         ? Want::kAlong
                          : ended_.Empty() ? Want::kTogether
                                           : Want::kNow);
  }
  if (!of_all && want != Want::kNow) {
    // Ranks outside of the process set do not come along.
    want = want == Want::kTogether ? Want::kNow : Want::kNothing;
  }
  return want;
}

Want Member::WantOfGroups() const {
  if ((spoken_.ended && !settled_.ended) ||
      (spoken_.drained && !settled_.drained) || app_.left != said_left_) {
    return Want::kNow;
  }
  for (const auto& entry : held_) {
    if (Announces(entry.first) && sent_.count(entry.first) == 0) {
      return Want::kNow;
    }
  }
  if (!announced_.empty()) {
    // Somebody may wait until this rank is excused.
    const Whereabouts now = OwnWhereabouts();
    const Whereabouts& then = announced_whereabouts_;
    if ((now.gone && !then.gone) || (now.elsewhere && !then.elsewhere) ||
        !std::includes(then.waits.begin(), then.waits.end(),
                       now.waits.begin(), now.waits.end())) {
      return Want::kNow;
    }
  }
  Want want = app_.joined || app_.over ? Want::kAlong : Want::kNothing;
  for (const auto& group : groups_) {
    const std::string& name = group->spec().name;
    if (group->tuner() && group->tuner()->VerdictToSay() != 0) {
      return Want::kNow; // the round may need fewer ranks
    }
    auto before = settled_.groups.find(name);
    want = std::max(want, WantOf(*group, spoken_.groups.at(name),
                                 before != settled_.groups.end()
                                     ? before->second
                                     : std::array<bool, kSays>{}));
  }
  return want;
}

Member::Whereabouts Member::OwnWhereabouts() const {
  Whereabouts where;
  where.gone = app_.joined || app_.over;
  where.elsewhere = app_.elsewhere;
  for (const auto& wait : app_.waits) {
    const std::string name = NameOf(wait.ticket);
    if (!name.empty()) {
      where.waits.insert(name);
    }
  }
  return where;
}

void Member::Resolve(const std::vector<uint64_t>& words) {
  actions_.clear();
  BitReader bits(words);
  registration_due_ = bits.Get();
  const RankSet ended = bits.GetSet(size_);
  const RankSet drained = bits.GetSet(size_);
  cycles_over_ = ended.Full() ? cycles_over_ + 1 : 0;
  follow_up_ = ended != ended_ || drained != drained_ ||
               (ended.Full() && cycles_over_ <= kLastCycles);
  ended_ = ended;
  drained_ = drained;
  std::vector<std::string> removed;
  std::vector<View> views(groups_.size(), View(size_));
  for (size_t i = 0; i < groups_.size(); ++i) {
    View& view = views[i];
    for (int say = 0; say < groups_[i]->says(); ++say) {
      view.sets[say] = bits.GetSet(size_);
    }
    view.ended = ended_;
  }
  for (size_t i = 0; i < groups_.size(); ++i) {
    const auto& group = groups_[i];
    View& view = views[i];
    if (Tuner* tuner = group->tuner()) {
      const uint64_t verdict = bits.GetNumber(kVerdictBits);
      std::vector<uint32_t> steps(size_);
      for (auto& step : steps) {
        step = static_cast<uint32_t>(bits.GetNumber(kStepBits));
      }
      tuner->Hear(steps, verdict, group->next_round(), view[Say::kApart]);
    }
    group->Complement(view);
    follow_up_ = group->Heed(view) || follow_up_;
    const std::string& name = group->spec().name;
    Decision decision = Decide(group->spec(), view);
    if (decision.kind == Kind::kRemove) {
      removed.push_back(name);
    } else if (decision.kind != Kind::kWait) {
      actions_.push_back({group, decision});
      // A round alone changes nothing for whom it leaves behind, but a flush
      // or a heal may be next. Who flushed asks for more where there is more.
      follow_up_ = follow_up_ || decision.kind == Kind::kCheck ||
                   decision.kind == Kind::kTransfer || decision.heal ||
                   (decision.kind == Kind::kRound &&
                    !view[Say::kCaller].Empty());
      // Nor one in parts while it goes on, but what others said meanwhile
      // counts once it is over.
      follow_up_ = follow_up_ || decision.begin_part > 0 ||
                   decision.end_part < group->spec().Parts();
    }
    views_.insert_or_assign(name, std::move(view));
    last_.insert_or_assign(name, std::move(decision));
  }
  for (const auto& name : removed) {
    follow_up_ = true;
    Remove(name, "the group has ended on every rank");
  }
  OrderActions();
}

void Member::OrderActions() {
  std::stable_sort(actions_.begin(), actions_.end(),
                   [](const Action& a, const Action& b) {
                     return (a.decision.kind == Kind::kRound) >
                            (b.decision.kind == Kind::kRound);
                   });
}

std::string Member::Announcements() {
  WireWriter out;
  announced_whereabouts_ = OwnWhereabouts();
  out.Number(static_cast<uint8_t>(announced_whereabouts_.gone));
  out.Number(static_cast<uint8_t>(announced_whereabouts_.elsewhere));
  out.Number(static_cast<uint32_t>(announced_whereabouts_.waits.size()));
  for (const auto& name : announced_whereabouts_.waits) {
    out.String(name);
  }
  std::vector<std::string> names;
  for (const auto& entry : held_) {
    if (Announces(entry.first) && sent_.insert(entry.first).second) {
      names.push_back(entry.first);
    }
  }
  out.Number(static_cast<uint32_t>(names.size()));
  for (const auto& name : names) {
    bool submits = false;
    std::shared_ptr<const GroupSpec> spec;
    for (const auto& held : held_.at(name)) {
      submits = submits || (held.spec && Submits(*held.spec, held.request));
      spec = spec ? spec : held.spec;
    }
    out.String(name);
    out.Number(static_cast<uint8_t>(submits));
    out.String(spec ? spec->Serialize() : "");
  }
  said_left_ = app_.left;
  out.Number(static_cast<uint32_t>(said_left_.size()));
  for (const auto& operation : said_left_) {
    out.String(operation);
  }
  return out.Take();
}

void Member::Register(const std::vector<std::string>& messages) {
  std::vector<Whereabouts> whereabouts(size_);
  for (int rank = 0; rank < size_; ++rank) {
    WireReader in(messages[rank]);
    auto& where = whereabouts[rank];
    where.gone = in.Choice(2) != 0;
    where.elsewhere = in.Choice(2) != 0;
    const uint32_t waits = in.Count(sizeof(uint32_t));
    for (uint32_t i = 0; i < waits; ++i) {
      where.waits.insert(in.String());
    }
    const uint32_t names = in.Count(2 * sizeof(uint32_t) + 1);
    for (uint32_t i = 0; i < names; ++i) {
      const std::string name = in.String();
      auto& announcements = announced_[name];
      announcements.resize(size_);
      auto& announcement = announcements[rank];
      announcement.made = true;
      follow_up_ = true;
      announcement.submits = in.Choice(2) != 0;
      const std::string bytes = in.String();
      if (!bytes.empty()) {
        announcement.spec =
            std::make_shared<const GroupSpec>(GroupSpec::Parse(bytes));
        const int64_t size = Layout(announcement.spec->tensors).total_bytes();
        if (announcement.spec->name != name || size > most_bytes_) {
          throw std::runtime_error(
              "rank " + std::to_string(rank) + " announces group '" + name +
              "' as '" + announcement.spec->name + "' of " +
              std::to_string(size) + " bytes: that cannot be");
        }
      }
    }
    std::set<std::string> left;
    const uint32_t operations = in.Count(sizeof(uint32_t));
    for (uint32_t i = 0; i < operations; ++i) {
      left.insert(in.String());
    }
    follow_up_ = follow_up_ || left != left_outstanding_[rank];
    left_outstanding_[rank] = std::move(left);
    in.End();
  }
  unannounced_.clear();
  for (auto entry = announced_.begin(); entry != announced_.end();) {
    TellFailures(entry->first, entry->second);
    if (Settle(entry->first, entry->second, whereabouts)) {
      follow_up_ = true;
      entry = announced_.erase(entry);
    } else {
      ++entry;
    }
  }
  // Afterwards: what such a rank had asked for has been answered.
  for (auto entry = failures_.begin(); entry != failures_.end();) {
    auto& failures = entry->second;
    for (auto& failure : failures) {
      for (int rank = 0; rank < size_; ++rank) {
        if (whereabouts[rank].gone) {
          failure.untold.Remove(rank);
        }
      }
    }
    failures.erase(std::remove_if(failures.begin(), failures.end(),
                                  [](const Failure& failure) {
                                    return failure.untold.Empty();
                                  }),
                   failures.end());
    entry = failures.empty() ? failures_.erase(entry) : std::next(entry);
  }
  OrderActions();
}

bool Member::Untold(const std::string& name, int rank) const {
  auto found = failures_.find(name);
  return found != failures_.end() &&
         std::any_of(found->second.begin(), found->second.end(),
                     [rank](const Failure& failure) {
                       return failure.untold.Has(rank);
                     });
}

bool Member::UntoldOfAny(int rank) const {
  return std::any_of(failures_.begin(), failures_.end(),
                     [this, rank](const auto& entry) {
                       return Untold(entry.first, rank);
                     });
}

void Member::TellFailures(const std::string& name,
                          std::vector<Announcement>& announcements) {
  auto found = failures_.find(name);
  if (found == failures_.end()) {
    return;
  }
  for (int rank = 0; rank < size_; ++rank) {
    if (!announcements[rank].made) {
      continue;
    }
    for (auto& failure : found->second) {
      if (failure.untold.Has(rank)) {
        failure.untold.Remove(rank);
        announcements[rank] = Announcement();
        if (rank == rank_) {
          RefuseHeld(name, failure.message);
        }
        break;
      }
    }
  }
}

bool Member::Settle(const std::string& name,
                    std::vector<Announcement>& announcements,
                    const std::vector<Whereabouts>& whereabouts) {
  RankSet announcers(size_);
  RankSet submitters(size_);
  int first = -1; // the lowest rank with a spec
  for (int rank = 0; rank < size_; ++rank) {
    const auto& announcement = announcements[rank];
    if (announcement.made) {
      announcers.Add(rank);
    }
    if (announcement.submits) {
      submitters.Add(rank);
    }
    if (announcement.spec && first < 0) {
      first = rank;
    }
  }

  if (announcers.Empty()) {
    return true;
  }

  auto group = Find(name);
  if (group) {
    // A rank that comes later announces only what differs. (Who has retired
    // from the group waits until it is gone.)
    const int holder = (RankSet::All(size_) - announcers).Lowest();
    std::string message;
    for (int rank = 0; rank < size_ && message.empty(); ++rank) {
      if (announcements[rank].spec) {
        message = Mismatch(group->spec(), holder, *announcements[rank].spec,
                           rank);
      }
    }
    if (holder < 0 && !message.empty()) {
      message = "group '" + name +
                "' is registered already: settings and tensors must be the "
                "same on every rank and in every call (use another name)";
    }
    if (message.empty()) {
      throw std::runtime_error("rank " + announcers.ToString() +
                               " announces group '" + name +
                               "' as every rank knows it: that cannot be");
    }
    const View& view = views_.at(name);
    RankSet submitted = view[Say::kReady];
    if (group->spec().Parts() > 1) {
      submitted = submitted & view[Say::kWhole]; // others have no request yet
    }
    Fail(name, message, announcers | submitted | view[Say::kCaller]);
    return true;
  }

  for (int rank = first + 1; first >= 0 && rank < size_; ++rank) {
    if (announcements[rank].spec) {
      const std::string message =
          Mismatch(*announcements[first].spec, first,
                   *announcements[rank].spec, rank);
      if (!message.empty()) {
        Fail(name, message, announcers);
        return true;
      }
    }
  }

  const bool full = first >= 0 && announcements[first].spec->policy.kind ==
                                      PolicyKind::kFull;
  RankSet computing(size_);
  RankSet here(size_);
  for (int rank = 0; rank < size_; ++rank) {
    if (announcers.Has(rank)) {
      continue;
    }
    if (!whereabouts[rank].Excused(full)) {
      computing.Add(rank);
    }
    if (!whereabouts[rank].gone) {
      here.Add(rank);
    }
  }
  // Where nobody has a spec, a rank that waits may know the group.
  const RankSet& missing = first < 0 ? here : computing;
  if (!missing.Empty()) {
    unannounced_.insert_or_assign(name, missing);
    return false;
  }
  if (first < 0) {
    Fail(name, "there is no group '" + name + "': submit to it first",
         announcers);
    return true;
  }
  Create(name, *announcements[first].spec, submitters);
  return true;
}

void Member::Create(const std::string& name, const GroupSpec& spec,
                    const RankSet& submitters) {
  auto group = std::make_shared<Group>(spec, rank_, size_);
  groups_.push_back(group);
  sent_.erase(name);
  auto held = held_.find(name);
  if (held != held_.end()) {
    auto requests = std::move(held->second);
    held_.erase(held);
    for (auto& entry : requests) {
      // The first parts of a submission have not been announced.
      if (entry.request.type == Request::kSubmit && entry.spec &&
          !Mismatch(spec, 0, *entry.spec, rank_).empty()) {
        held_[name].push_back(std::move(entry));
      } else {
        group->Take(entry.request, completed_);
      }
    }
  }
  if (!submitters.Empty()) {
    Decision decision;
    decision.kind = Kind::kRound;
    decision.active = submitters;
    decision.stale = RankSet(size_);
    decision.participants = RankSet::All(size_);
    decision.end_part = spec.Parts();
    actions_.push_back({group, decision});
  }
}

void Member::RefuseHeld(const std::string& name, const std::string& message) {
  auto held = held_.find(name);
  if (held != held_.end()) {
    for (const auto& entry : held->second) {
      if (entry.request.ticket == 0) {
        continue; // part of a submission: its last one has the ticket
      }
      Completion refusal;
      refusal.ticket = entry.request.ticket;
      refusal.status = Completion::kInvalid;
      refusal.message = message;
      completed_.push_back(std::move(refusal));
    }
    held_.erase(held);
  }
  sent_.erase(name);
}

void Member::Remove(const std::string& name, const std::string& message) {
  auto group = Find(name);
  if (group) {
    group->Fail(Completion::kInvalid, message, completed_);
    if (group->holds() || !group->staged().empty()) {
      left_.push_back(name);
    }
    groups_.erase(std::find(groups_.begin(), groups_.end(), group));
    actions_.erase(std::remove_if(actions_.begin(), actions_.end(),
                                  [&](const Action& action) {
                                    return action.group == group;
                                  }),
                   actions_.end());
    views_.erase(name);
    last_.erase(name);
  }
}

void Member::Fail(const std::string& name, const std::string& message,
                  const RankSet& told) {
  Remove(name, message);
  if (told.Has(rank_)) {
    RefuseHeld(name, message);
  }
  failures_[name].push_back({message, RankSet::All(size_) - told});
}

} // namespace horovod_partial
