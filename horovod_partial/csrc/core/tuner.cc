// Copyright 2026 The horovod-partial authors. Licensed under Apache-2.0.

#include "tuner.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <numeric>
#include <random>

#include "replay.h"

namespace horovod_partial {
namespace {

// Of EncodeStep: one code to the next is a factor of 10^(10/1022) = 1.023.
constexpr double kShortest = 1e-6;
constexpr double kDecades = 10;
constexpr int kCodes = (1 << kStepBits) - 1;

// Steps of a rank that wait to be said. A rank makes two at most from one round
// to the next.
constexpr size_t kMostUnsaid = 16;

// The newest steps that count: of so many rounds, but so many of each rank at
// least.
constexpr int64_t kWindow = 24;
constexpr size_t kFewest = 4;

// A first answer needs so many steps of each rank.
constexpr size_t kFirstSteps = 2;
// Rounds to the second question, and the most from one to the next.
constexpr int64_t kFirstPause = 2;
constexpr int64_t kLongestPause = 8;

constexpr size_t kRoundsNoted = 16;

// Evaluate: ranks at most, Ks tried without refinement, drawn steps of each
// rank, and how much time they are replayed for, in mean steps.
constexpr int kMostRanks = 64;
constexpr int kAllKs = 16;
constexpr int kDrawn = 64;
constexpr double kHorizon = 48;
// So many rounds' worth of evidence has it that a rank's odd steps are its own,
// and may not as well be another's.
constexpr double kOwn = 16;
// A K is as good as the best with a score this close to it.
constexpr double kAsGood = 0.01;
// What a score has to gain for a change.
constexpr double kWorthIt = 0.04;

class Random {
public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  int Below(int limit) { return static_cast<int>(engine_() % limit); }
  double Uniform() { return static_cast<double>(engine_() >> 11) * 0x1p-53; }

private:
  std::mt19937_64 engine_;
};

double Log(double seconds) { return std::log(std::max(seconds, kShortest)); }

// The ranks' steps as a model: each rank's typical step, in logarithms, and for
// each round by how much each rank's was longer than that. A rank differs from
// the others only as far as its steps agree with each other (empirical Bayes:
// Efron, Morris, "Data analysis using Stein's estimator", JASA 1975).
class Model {
public:
  explicit Model(const std::vector<std::vector<Question::Step>>& steps)
      : ranks_(static_cast<int>(steps.size())), typical_(ranks_) {
    double within = 0;
    double freedom = 0;
    double inverse = 0;
    for (int r = 0; r < ranks_; ++r) {
      double sum = 0;
      for (const auto& step : steps[r]) {
        sum += Log(step.seconds);
      }
      const auto count = static_cast<double>(steps[r].size());
      typical_[r] = sum / count;
      for (const auto& step : steps[r]) {
        const double off = Log(step.seconds) - typical_[r];
        within += off * off;
      }
      freedom += count - 1;
      inverse += 1 / count;
    }
    within = freedom > 0 ? within / freedom : 0;
    const double grand =
        std::accumulate(typical_.begin(), typical_.end(), 0.0) / ranks_;
    double between = 0;
    for (double typical : typical_) {
      between += (typical - grand) * (typical - grand);
    }
    between /= std::max(ranks_ - 1, 1);
    between = std::max(between - within * inverse / ranks_, 0.0);
    for (int r = 0; r < ranks_; ++r) {
      const double noise = within / static_cast<double>(steps[r].size());
      const double weight =
          between + noise > 0 ? between / (between + noise) : 1;
      typical_[r] = grand + weight * (typical_[r] - grand);
    }
    FillRows(steps);
  }

  // Steps of each rank to replay. Steps of one round are drawn together: what
  // slows all ranks at once makes none wait for another.
  std::vector<std::vector<double>> Draw(const std::vector<int>& chosen,
                                        Random& random) const {
    std::vector<std::vector<double>> drawn(chosen.size(),
                                           std::vector<double>(kDrawn));
    const auto rows = static_cast<int>(rows_.size());
    std::vector<int> whose(ranks_);
    for (int i = 0; i < kDrawn; ++i) {
      const auto& row = rows_[random.Below(rows)];
      std::iota(whose.begin(), whose.end(), 0);
      if (random.Uniform() * (kOwn + rows) < kOwn) {
        for (int r = ranks_ - 1; r > 0; --r) {
          std::swap(whose[r], whose[random.Below(r + 1)]);
        }
      }
      for (size_t c = 0; c < chosen.size(); ++c) {
        drawn[c][i] = std::exp(typical_[chosen[c]] + row[whose[chosen[c]]]);
      }
    }
    return drawn;
  }

  // So many ranks that stand for all, from the fastest to the slowest.
  std::vector<int> Representatives(int most) const {
    std::vector<int> ranks(ranks_);
    std::iota(ranks.begin(), ranks.end(), 0);
    if (ranks_ <= most) {
      return ranks;
    }
    std::stable_sort(ranks.begin(), ranks.end(), [this](int a, int b) {
      return typical_[a] < typical_[b];
    });
    std::vector<int> chosen;
    for (int64_t i = 0; i < most; ++i) {
      chosen.push_back(ranks[(2 * i + 1) * ranks_ / (2 * most)]);
    }
    return chosen;
  }

private:
  // A row for each round in which a rank was heard of; who was not is taken to
  // be as in the round before, or after.
  void FillRows(const std::vector<std::vector<Question::Step>>& steps) {
    std::map<int64_t, std::vector<double>> rows;
    for (int r = 0; r < ranks_; ++r) {
      for (const auto& step : steps[r]) {
        auto& row = rows.try_emplace(step.round, ranks_, NAN).first->second;
        row[r] = Log(step.seconds) - typical_[r];
      }
    }
    for (auto& entry : rows) {
      rows_.push_back(std::move(entry.second));
    }
    const size_t count = rows_.size();
    for (int r = 0; r < ranks_; ++r) {
      for (size_t i = 1; i < count; ++i) {
        if (std::isnan(rows_[i][r])) {
          rows_[i][r] = rows_[i - 1][r];
        }
      }
      for (size_t i = count - 1; i > 0; --i) {
        if (std::isnan(rows_[i - 1][r])) {
          rows_[i - 1][r] = rows_[i][r];
        }
      }
    }
  }

  const int ranks_;
  std::vector<double> typical_;
  std::vector<std::vector<double>> rows_;
};

// Replays the drawn steps under one K.
class Trial {
public:
  explicit Trial(const Question& question) : question_(question) {
    const Model model(question.steps);
    Random random(question.seed);
    steps_ = model.Draw(model.Representatives(kMostRanks), random);
    double sum = 0;
    for (const auto& steps : steps_) {
      sum += std::accumulate(steps.begin(), steps.end(), 0.0);
    }
    seconds_ = kHorizon * sum / (kDrawn * static_cast<double>(steps_.size()));
    results_.resize(steps_.size() + 1);
  }

  int size() const { return static_cast<int>(steps_.size()); }
  const ReplayResult& Result(int k) {
    auto& result = results_[k];
    if (result.rounds == 0) {
      ReplaySetting setting;
      setting.policy = {PolicyKind::kFirst, k};
      setting.staleness_bound = question_.staleness_bound;
      setting.round_seconds = question_.round_seconds;
      setting.rounds = INT64_MAX;
      setting.seconds = seconds_;
      result = Replay(steps_, setting);
    }
    return result;
  }
  double Score(int k) { return Result(k).Score(question_.staleness_cost); }

private:
  const Question& question_;
  std::vector<std::vector<double>> steps_;
  double seconds_;
  std::vector<ReplayResult> results_;
};

} // namespace

uint32_t EncodeStep(double seconds) {
  if (!(seconds > 0)) {
    return 0;
  }
  const double place =
      std::log10(seconds / kShortest) / kDecades * (kCodes - 1);
  return 1 + static_cast<uint32_t>(
                 std::clamp(std::round(place), 0.0, kCodes - 1.0));
}

double DecodeStep(uint32_t code) {
  return code == 0 ? 0
                   : kShortest * std::pow(10, kDecades * (code - 1.0) /
                                                  (kCodes - 1));
}

// K, the gain in thousandths and the staleness in hundredths, 16 bits each.
uint64_t Verdict::Encode() const {
  auto bits = [](double value) {
    return static_cast<uint64_t>(std::clamp(std::round(value), 0.0, 65535.0));
  };
  return k == 0 ? 0
                : bits(k) | bits(1000 * gain) << 16 |
                      bits(100 * staleness) << 32;
}

Verdict Verdict::Decode(uint64_t bits) {
  Verdict verdict;
  verdict.k = static_cast<int>(bits & 0xffff);
  verdict.gain = static_cast<double>((bits >> 16) & 0xffff) / 1000;
  verdict.staleness = static_cast<double>((bits >> 32) & 0xffff) / 100;
  return verdict;
}

std::string Change::Why() const {
  char text[160];
  std::snprintf(text, sizeof(text),
                "predicted score %.2f times that of K=%d, gradients %.2f "
                "rounds stale on average",
                gain, before, staleness);
  return text;
}

std::vector<double> Scores(const Question& question) {
  Trial trial(question);
  std::vector<double> scores;
  for (int k = 1; k <= trial.size(); ++k) {
    scores.push_back(trial.Score(k));
  }
  return scores;
}

Verdict Evaluate(const Question& question) {
  const auto ranks = static_cast<int>(question.steps.size());
  Trial trial(question);
  const int size = trial.size();
  // Ks are told in ranks, tried in representatives.
  auto tried = [&](int k) {
    return std::clamp<int>(static_cast<int>(int64_t{k} * size / ranks), 1,
                           size);
  };
  auto told = [&](int k) {
    return k == size ? ranks
                     : static_cast<int>((int64_t{k} * ranks + size - 1) / size);
  };
  const int present = tried(std::min(question.k, ranks));
  int best = size;
  auto consider = [&](int k) {
    if (trial.Score(k) > trial.Score(best)) {
      best = k;
    }
  };
  // From the largest to the smallest: all, or every few, then those around the
  // best of these.
  const int stride = std::max(1, size / kAllKs);
  for (int k = size; k >= 1; k -= stride) {
    consider(k);
  }
  for (int step = stride / 2; step >= 1; step /= 2) {
    const int around = best;
    consider(std::min(around + step, size));
    consider(std::max(around - step, 1));
  }
  while (best < size &&
         trial.Score(best + 1) > (1 - kAsGood) * trial.Score(best)) {
    ++best;
  }
  Verdict verdict;
  if (best != present &&
      trial.Score(best) > (1 + kWorthIt) * trial.Score(present)) {
    verdict.k = told(best);
    verdict.gain = trial.Score(best) / trial.Score(present);
    verdict.staleness = trial.Result(best).mean_staleness;
  }
  return verdict;
}

Tuner::Tuner(int rank, int size, int64_t staleness_bound, double staleness_cost)
    : rank_(rank), size_(size), staleness_bound_(staleness_bound),
      staleness_cost_(staleness_cost), k_(size), gone_(size) {
  if (rank == 0) {
    steps_.resize(size);
  }
}

void Tuner::NoteStep(double seconds) {
  const uint32_t code = EncodeStep(seconds);
  if (code != 0 && unsaid_.size() < kMostUnsaid) {
    unsaid_.push_back(code);
  }
}

void Tuner::NoteRound(double seconds) {
  if (round_seconds_.size() < kRoundsNoted) {
    round_seconds_.push_back(seconds);
  } else {
    round_seconds_[rounds_noted_ % kRoundsNoted] = seconds;
  }
  ++rounds_noted_;
}

void Tuner::Hear(const std::vector<uint32_t>& steps, uint64_t verdict,
                 int64_t round, const RankSet& gone) {
  // What was said was the oldest, and nothing was added since.
  if (steps[rank_] != 0 && !unsaid_.empty()) {
    unsaid_.pop_front();
  }
  const Verdict heard = Verdict::Decode(verdict);
  if (heard.k != 0) {
    verdict_ = Verdict();
    const int k = std::min(heard.k, size_);
    if (k != k_) {
      changes_.push_back({round, k_, k, heard.gain, heard.staleness});
      k_ = k;
    }
  }
  if (rank_ != 0) {
    return;
  }
  round_ = round;
  gone_ = gone;
  for (int rank = 0; rank < size_; ++rank) {
    auto& kept = steps_[rank];
    if (steps[rank] != 0) {
      kept.push_back({round, DecodeStep(steps[rank])});
    }
    while (kept.size() > kFewest && kept.front().round < round - kWindow) {
      kept.pop_front();
    }
  }
}

std::unique_ptr<Question> Tuner::Ask() {
  if (rank_ != 0 || asking_ || verdict_.k != 0 || round_ < next_ask_) {
    return nullptr;
  }
  auto question = std::make_unique<Question>();
  for (int rank = 0; rank < size_; ++rank) {
    if (gone_.Has(rank)) {
      continue;
    }
    if (steps_[rank].size() < kFirstSteps) {
      return nullptr;
    }
    question->steps.emplace_back(steps_[rank].begin(), steps_[rank].end());
  }
  if (question->steps.size() < 2) {
    return nullptr;
  }
  question->k = k_;
  question->staleness_bound = staleness_bound_;
  question->staleness_cost = staleness_cost_;
  if (!round_seconds_.empty()) {
    auto sorted = round_seconds_;
    std::nth_element(sorted.begin(), sorted.begin() + sorted.size() / 2,
                     sorted.end());
    question->round_seconds = sorted[sorted.size() / 2];
  }
  question->seed = static_cast<uint64_t>(asked_);
  next_ask_ = round_ + std::min(kFirstPause << std::min<int64_t>(asked_, 8),
                                kLongestPause);
  ++asked_;
  asking_ = true;
  return question;
}

void Tuner::Answer(const Verdict& verdict) {
  asking_ = false;
  verdict_ = verdict;
}

} // namespace horovod_partial
