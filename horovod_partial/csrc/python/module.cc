// Copyright 2026 The horovod-partial authors. Licensed under Apache-2.0.

// The core without Horovod, for Python: what a policy's string means, and the
// simulation. horovod_partial._core

#include <pybind11/functional.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "../core/decide.h"
#include "../core/group.h"
#include "../core/member.h"
#include "../core/policy.h"
#include "../core/replay.h"
#include "../sim/simulation.h"

namespace py = pybind11;
using namespace horovod_partial;

namespace {

const char* KindName(PolicyKind kind) {
  static const char* names[] = {"solo",  "majority", "quorum",
                                "first", "full",     "auto"};
  return names[static_cast<int>(kind)];
}

std::tuple<std::string, int, double>
ParsePolicyForPython(const std::string& text) {
  const Policy policy = ParsePolicy(text);
  return {KindName(policy.kind), policy.k, policy.staleness_cost};
}

RankSet SetOf(const std::vector<int>& ranks, int size) {
  RankSet set(size);
  for (int rank : ranks) {
    if (rank < 0 || rank >= size) {
      throw std::invalid_argument("rank " + std::to_string(rank) +
                                  " is not below " + std::to_string(size));
    }
    set.Add(rank);
  }
  return set;
}

// decide(policy=, size=, ready=[...], ...): one decision of the round protocol.
py::dict DecideForPython(const std::string& policy, int size,
                         const std::map<std::string, std::vector<int>>& says,
                         const std::vector<int>& ended, int64_t round,
                         int64_t last_heal, int64_t resync_every, Healing healing,
                         uint64_t seed, int k,
                         const std::vector<int32_t>& parts, int part,
                         const std::vector<int>& active) {
  static const char* names[kSays] = {
      "veto",     "ready",  "excused", "drifted", "merged",  "blocked",
      "holds",    "flushing", "caller", "apart",   "retired", "synced",
      "next",     "whole"};
  GroupSpec spec;
  spec.name = "group";
  spec.policy = ParsePolicy(policy);
  spec.seed = seed;
  spec.resync_every = resync_every;
  spec.healing = healing;
  spec.parts = parts;
  View view(size);
  for (const auto& entry : says) {
    int which = 0;
    while (which < kSays && entry.first != names[which]) {
      ++which;
    }
    if (which == kSays) {
      throw std::invalid_argument("nothing is called '" + entry.first + "'");
    }
    view[static_cast<Say>(which)] = SetOf(entry.second, size);
  }
  view.ended = SetOf(ended, size);
  view.round = round;
  view.last_heal = last_heal;
  view.k = k;
  view.part = part;
  view.active = SetOf(active, size);
  const Decision decision = Decide(spec, view);
  static const char* kinds[] = {"wait",  "round",    "flush",
                                "check", "transfer", "remove"};
  py::dict result;
  result["kind"] = kinds[static_cast<int>(decision.kind)];
  result["active"] = decision.active.ToVector();
  result["empty"] = decision.empty;
  result["sole"] = decision.sole;
  result["heal"] = decision.heal;
  result["root"] = decision.root;
  result["waited_for"] = decision.waited_for.ToVector();
  result["stale"] = decision.stale.ToVector();
  result["parts"] =
      py::make_tuple(decision.begin_part, decision.end_part);
  result["text"] = decision.kind == Kind::kWait
                       ? Explain(spec, view, decision)
                       : decision.ToString();
  return result;
}

// A group on one rank, with float64 tensors: how it counts, merges, catches up.
class LoneGroup {
public:
  LoneGroup(int rank, int size, int elements, const std::string& policy,
            int64_t bound, const std::string& catch_up)
      : elements_(elements), group_(Spec(elements, policy, bound, catch_up),
                                    rank, size),
        size_(size) {}

  // The rounds that come back at once, when it is late.
  py::list Submit(std::vector<double> values) {
    Request request;
    request.ticket = ++ticket_;
    request.tensors = {values.data()};
    std::vector<Completion> done;
    group_.Take(request, done);
    return Rounds(done);
  }

  // A round with these ranks active, in which the others contribute `others`.
  py::list Round(const std::vector<int>& active,
                 const std::vector<double>& others) {
    Decision decision;
    decision.kind = Kind::kRound;
    decision.active = SetOf(active, size_);
    decision.participants = RankSet::All(size_);
    Buffers& buffers = group_.Begin(decision);
    std::vector<double> sum(elements_);
    buffers.CopyOut({sum.data()});
    for (int i = 0; i < elements_; ++i) {
      sum[i] += others.at(i);
    }
    buffers.CopyIn({sum.data()});
    std::vector<Completion> done;
    group_.Finish(decision, done);
    return Rounds(done);
  }

  std::vector<double> SendBuffer() const {
    std::vector<double> values(elements_, 0.0);
    if (group_.holds()) {
      group_.send_buffer().CopyOut({values.data()});
    }
    return values;
  }
  int64_t Pending() const { return group_.pending(); }
  int64_t Entries() const {
    return static_cast<int64_t>(group_.receive_queue().size());
  }
  bool Drifted() const { return group_.drifted(); }
  bool Says(int what, bool elsewhere, bool joined, bool ended) const {
    Standing standing;
    standing.elsewhere = elsewhere;
    standing.joined = joined;
    standing.ended = ended;
    return group_.Speak(standing).at(what);
  }

private:
  static GroupSpec Spec(int elements, const std::string& policy, int64_t bound,
                        const std::string& catch_up) {
    GroupSpec spec;
    spec.name = "group";
    spec.tensors = {{"values", DType::kFloat64, {elements}}};
    spec.op = ReduceOp::kSum;
    spec.policy = ParsePolicy(policy);
    spec.staleness_bound = bound;
    spec.catch_up = ParseCatchUp(catch_up);
    spec.Validate();
    return spec;
  }

  py::list Rounds(const std::vector<Completion>& done) const {
    py::list list;
    for (const auto& completion : done) {
      if (completion.status != Completion::kOk) {
        throw std::invalid_argument(completion.message);
      }
      for (const auto& round : completion.rounds) {
        std::vector<double> values(elements_);
        round->result->CopyOut({values.data()});
        list.append(py::make_tuple(round->index, round->count, round->active,
                                   values));
      }
    }
    return list;
  }

  const int elements_;
  Group group_;
  const int size_;
  Ticket ticket_ = 0;
};

template <typename From, typename To>
void Convert(DType dtype, const std::vector<From>& from, std::vector<To>* sum,
             const std::vector<From>& more) {
  auto layout = std::make_shared<const Layout>(std::vector<TensorSpec>{
      {"t", dtype, {static_cast<int64_t>(from.size())}}});
  Buffers buffers(layout);
  buffers.CopyIn({from.data()});
  buffers.AddIn({more.data()});
  sum->resize(from.size());
  buffers.CopyOut({sum->data()});
}

// The sum of two arrays of 16-bit floats, given and returned as their bits.
std::vector<uint16_t> AddSixteenBits(const std::string& dtype,
                                     const std::vector<uint16_t>& a,
                                     const std::vector<uint16_t>& b) {
  std::vector<uint16_t> sum;
  Convert(dtype == "bfloat16" ? DType::kBFloat16 : DType::kFloat16, a, &sum,
          b);
  return sum;
}

} // namespace

PYBIND11_MODULE(_core, m) {
  m.doc() = "The core of horovod_partial, without Horovod.";

  py::enum_<Healing>(m, "Healing")
      .value("NEVER", Healing::kNever)
      .value("AT_FLUSHES", Healing::kAtFlushes)
      .value("IN_ROUNDS", Healing::kInRounds);
  m.def("parse_policy", &ParsePolicyForPython, py::arg("text"),
        "The kind, the K and the staleness cost of a policy's string; ValueError "
        "for a wrong one.");
  m.attr("STALENESS_COST") = Policy::kStalenessCost;
  m.def(
      "exchange_bits",
      [](int size, int groups) {
        return Member::HeadOf(size) + static_cast<size_t>(groups) * (kSays - kSaysOfParts) * size;
      },
      py::arg("size"), py::arg("groups") = 1,
      "Bits of ours in an exchange of all ranks.");
  m.def("check_catch_up", [](const std::string& text) { ParseCatchUp(text); },
        py::arg("text"), "ValueError unless it is a catch_up.");
  m.def(
      "draw_committee",
      [](uint64_t seed, const std::string& group, int64_t round, int k,
         int size) { return DrawCommittee(seed, group, round, k, size).ToVector(); },
      py::arg("seed"), py::arg("group"), py::arg("round"), py::arg("k"),
      py::arg("size"), "The ranks of a round's committee, ascending.");
  m.def("decide", &DecideForPython, py::arg("policy"), py::arg("size"),
        py::arg("says"), py::arg("ended") = std::vector<int>(),
        py::arg("round") = 0, py::arg("last_heal") = 0,
        py::arg("resync_every") = 0, py::arg("healing") = Healing::kNever,
        py::arg("seed") = 0, py::arg("k") = 1,
        py::arg("parts") = std::vector<int32_t>(), py::arg("part") = 0,
        py::arg("active") = std::vector<int>(),
        "What the ranks decide when `says` maps veto, ready, excused, ... to "
        "the ranks that say so.");
  m.def("add_sixteen_bits", &AddSixteenBits, py::arg("dtype"), py::arg("a"),
        py::arg("b"),
        "The sum of two arrays of float16 or bfloat16, as bits.");
  m.def(
      "parse_group",
      [](const py::bytes& bytes) {
        return GroupSpec::Parse(bytes).name;
      },
      py::arg("announcement"),
      "The name in an announcement as it comes over the wire; RuntimeError or "
      "ValueError when it cannot be read.");
  m.def(
      "serialize_group",
      [](const std::string& name, const std::vector<std::vector<int64_t>>& shapes,
         const std::string& policy) {
        GroupSpec spec;
        spec.name = name;
        spec.policy = ParsePolicy(policy);
        for (const auto& shape : shapes) {
          spec.tensors.push_back(
              {"t" + std::to_string(spec.tensors.size()), DType::kFloat32,
               shape});
        }
        return py::bytes(spec.Serialize());
      },
      py::arg("name"), py::arg("shapes"), py::arg("policy"),
      "An announcement as it goes over the wire.");

  py::class_<LoneGroup>(m, "Group")
      .def(py::init<int, int, int, const std::string&, int64_t,
                    const std::string&>(),
           py::arg("rank"), py::arg("size"), py::arg("elements") = 1,
           py::arg("policy") = "solo", py::arg("staleness_bound") = 8,
           py::arg("catch_up") = "replay")
      .def("submit", &LoneGroup::Submit, py::arg("values"))
      .def("round", &LoneGroup::Round, py::arg("active"), py::arg("others"))
      .def_property_readonly("send_buffer", &LoneGroup::SendBuffer)
      .def_property_readonly("pending", &LoneGroup::Pending)
      .def_property_readonly("entries", &LoneGroup::Entries)
      .def_property_readonly("drifted", &LoneGroup::Drifted)
      .def(
          "vetoes",
          [](const LoneGroup& group, bool elsewhere, bool joined, bool ended) {
            return group.Says(static_cast<int>(Say::kVeto), elsewhere, joined,
                              ended);
          },
          py::arg("elsewhere") = false, py::arg("joined") = false,
          py::arg("ended") = false);

  py::class_<ReplayResult>(m, "Replay")
      .def_readonly("seconds", &ReplayResult::seconds)
      .def_readonly("rounds", &ReplayResult::rounds)
      .def_readonly("exchanges", &ReplayResult::exchanges)
      .def_readonly("submissions", &ReplayResult::submissions)
      .def_readonly("mean_active", &ReplayResult::mean_active)
      .def_readonly("mean_staleness", &ReplayResult::mean_staleness)
      .def_readonly("max_staleness", &ReplayResult::max_staleness)
      .def_readonly("wait_seconds", &ReplayResult::wait_seconds)
      .def_property_readonly(
          "changes",
          [](const ReplayResult& result) {
            py::list list;
            for (const auto& change : result.changes) {
              list.append(py::make_tuple(change.round, change.before, change.k,
                                         change.Why()));
            }
            return list;
          },
          "Of policy auto: (round, old K, new K, why).")
      .def_property_readonly(
          "events",
          [](const ReplayResult& result) {
            py::list list;
            for (const auto& event : result.events) {
              list.append(
                  py::make_tuple(event.seconds, event.rank, event.count));
            }
            return list;
          },
          "With trace=True, in order: (seconds, rank, the rounds that its "
          "gradient knows of) for a submission, (seconds, -1, active ranks) "
          "for a round.")
      .def_property_readonly("rounds_per_second",
                             &ReplayResult::RoundsPerSecond)
      .def_property_readonly("submissions_per_second",
                             &ReplayResult::SubmissionsPerSecond)
      .def("score", &ReplayResult::Score, py::arg("staleness_cost") = 0.7,
           "Gradients submitted per second / (1 + staleness_cost x mean "
           "staleness).");
  py::class_<Question>(m, "Question")
      .def(py::init([](const Steps& steps, int k, double round_seconds,
                       int64_t staleness_bound, double staleness_cost,
                       uint64_t seed) {
             Question question;
             for (const auto& seconds : steps) {
               auto& rank = question.steps.emplace_back();
               for (double second : seconds) {
                 rank.push_back({static_cast<int64_t>(rank.size()), second});
               }
             }
             question.k = k;
             question.round_seconds = round_seconds;
             question.staleness_bound = staleness_bound;
             question.staleness_cost = staleness_cost;
             question.seed = seed;
             return question;
           }),
           py::arg("steps"), py::arg("k"), py::arg("round_seconds") = 0.0,
           py::arg("staleness_bound") = 8, py::arg("staleness_cost") = 0.7,
           py::arg("seed") = 0,
           "What policy auto knows when it looks for a K: `steps[rank]`, one "
           "in each of the last rounds.")
      .def("scores", &Scores, py::call_guard<py::gil_scoped_release>())
      .def(
          "answer",
          [](const Question& question) {
            const Verdict verdict = Evaluate(question);
            return std::make_pair(verdict.k, verdict.gain);
          },
          py::call_guard<py::gil_scoped_release>(),
          "(the K to change to or 0, the gain in score).");
  m.def(
      "replay",
      [](const Steps& steps, const std::string& policy, int64_t rounds,
         int64_t staleness_bound, double round_seconds, uint64_t seed,
         double seconds, bool trace, double exchange_seconds) {
        return Replay(steps, {ParsePolicy(policy), staleness_bound, seed,
                              round_seconds, rounds, seconds, trace,
                              exchange_seconds});
      },
      py::arg("steps"), py::arg("policy"), py::arg("rounds") = 1000,
      py::arg("staleness_bound") = 8, py::arg("round_seconds") = 0.0,
      py::arg("seed") = 0, py::arg("seconds") = 0.0, py::arg("trace") = false,
      py::arg("exchange_seconds") = 0.0,
      py::call_guard<py::gil_scoped_release>(),
      "What training would be under a policy when `steps[rank]` are the "
      "durations, in seconds, of a rank's steps: see csrc/core/replay.h.");
  m.def(
      "replay_source",
      [](int size, const StepSource& source, const std::string& policy,
         int64_t rounds, int64_t staleness_bound, double round_seconds,
         uint64_t seed, bool trace) {
        return Replay(size, source,
                      {ParsePolicy(policy), staleness_bound, seed,
                       round_seconds, rounds, 0, trace});
      },
      py::arg("size"), py::arg("source"), py::arg("policy"),
      py::arg("rounds") = 1000, py::arg("staleness_bound") = 8,
      py::arg("round_seconds") = 0.0, py::arg("seed") = 0,
      py::arg("trace") = false,
      "Likewise, with `source(rank, now)` giving the seconds of the step that a "
      "rank begins at `now`.");

  auto simulation = m.def_submodule("simulation");
  py::class_<sim::Outcome>(simulation, "Outcome")
      .def_readonly("violation", &sim::Outcome::violation)
      .def_readonly("cycles", &sim::Outcome::cycles)
      .def_readonly("rounds", &sim::Outcome::rounds)
      .def_readonly("flushes", &sim::Outcome::flushes)
      .def_readonly("late", &sim::Outcome::late)
      .def_readonly("merged", &sim::Outcome::merged)
      .def_readonly("heals", &sim::Outcome::heals)
      .def_readonly("changes", &sim::Outcome::changes)
      .def_readonly("in_parts", &sim::Outcome::in_parts)
      .def_readonly("cut_short", &sim::Outcome::cut_short)
      .def_readonly("lost", &sim::Outcome::lost)
      .def_readonly("left", &sim::Outcome::left)
      .def_readonly("questions", &sim::Outcome::questions)
      .def_readonly("mean_active", &sim::Outcome::mean_active);
  py::class_<sim::GroupSetting>(simulation, "Group")
      .def(py::init([](const std::string& name, const std::string& policy,
                       int bound, const std::string& catch_up,
                       int resync_every, Healing healing, int parts) {
             return sim::GroupSetting{name,         policy,  bound, catch_up,
                                      resync_every, healing, parts};
           }),
           py::arg("name"), py::arg("policy") = "majority",
           py::arg("staleness_bound") = 8, py::arg("catch_up") = "replay",
           py::arg("resync_every") = 0,
           py::arg("healing") = Healing::kInRounds, py::arg("parts") = 1);
  py::enum_<sim::Fault>(simulation, "Fault")
      .value("NONE", sim::Fault::kNone)
      .value("LOSE_STALE", sim::Fault::kLoseStale)
      .value("DOUBLE_COUNT", sim::Fault::kDoubleCount)
      .value("MISSING_EXCUSE", sim::Fault::kMissingExcuse)
      .value("IGNORE_BOUND", sim::Fault::kIgnoreBound)
      .value("NO_FOLLOW_UP", sim::Fault::kNoFollowUp)
      .value("LATE_CHANGE", sim::Fault::kLateChange)
      .value("NO_CUT_SHORT", sim::Fault::kNoCutShort)
      .value("FORGET_LEFT", sim::Fault::kForgetLeft);
  simulation.def(
      "run",
      [](const std::vector<sim::GroupSetting>& groups,
         const std::vector<std::string>& programs, uint64_t seed,
         sim::Fault fault) {
        sim::Setting setting;
        setting.size = static_cast<int>(programs.size());
        setting.seed = seed;
        setting.groups = groups;
        setting.fault = fault;
        setting.events = seed % 2 == 1;
        for (const auto& program : programs) {
          std::vector<std::string> words;
          std::istringstream in(program);
          for (std::string word; in >> word;) {
            words.push_back(word);
          }
          setting.programs.push_back(sim::ParseProgram(words));
        }
        return sim::Run(setting);
      },
      py::arg("groups"), py::arg("programs"), py::arg("seed") = 0,
      py::arg("fault") = sim::Fault::kNone,
      "One schedule: programs as 'step:A sync:S', one per rank; the seed draws "
      "the interleaving.");
  simulation.def(
      "run_random",
      [](uint64_t seed, int max_size, sim::Fault fault) {
        auto setting = sim::RandomSetting(seed, max_size);
        setting.fault = fault;
        return sim::Run(setting);
      },
      py::arg("seed"), py::arg("max_size") = 16,
      py::arg("fault") = sim::Fault::kNone,
      py::call_guard<py::gil_scoped_release>(),
      "A schedule of which the seed draws everything.");
  simulation.def(
      "describe",
      [](uint64_t seed, int max_size) {
        return sim::Describe(sim::RandomSetting(seed, max_size));
      },
      py::arg("seed"), py::arg("max_size") = 16,
      "What run_random runs for this seed.");
}
