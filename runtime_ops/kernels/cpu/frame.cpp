#include "frame.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <stdexcept>

namespace fqonnx {
namespace {

constexpr int64_t kMaxVectors = int64_t(1) << 20;  // sums of 4-bit codes fit into 32 bits
constexpr size_t kMaxTable = size_t(1) << 26;      // floats of a frame's own matrices

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument(what); }

std::vector<float> transpose(const std::vector<float>& matrix, size_t columns) {
  const size_t rows = matrix.size() / columns;
  std::vector<float> result(matrix.size());
  for (size_t i = 0; i < rows; ++i) {
    for (size_t j = 0; j < columns; ++j) result[j * rows + i] = matrix[i * columns + j];
  }
  return result;
}

// Orthonormal DCT-II of an odd order.
std::vector<float> dct(size_t order) {
  std::vector<float> matrix(order * order);
  for (size_t k = 0; k < order; ++k) {
    const double scale = std::sqrt((k == 0 ? 1.0 : 2.0) / double(order));
    for (size_t t = 0; t < order; ++t) {
      const double angle = M_PI / double(order) * double(k) * (double(t) + 0.5);
      matrix[k * order + t] = float(scale * std::cos(angle));
    }
  }
  return matrix;
}

}  // namespace

Frame::Frame(const FrameAttributes& attributes) {
  const int64_t dim = attributes.dim, num_vectors = attributes.num_vectors;
  const std::string& kind = attributes.kind;
  if (dim < 1 || num_vectors < dim || num_vectors > kMaxVectors) {
    refuse("a frame of " + std::to_string(num_vectors) + " vectors in dimension " +
           std::to_string(dim) + ", expected 1 <= dim <= vectors <= " +
           std::to_string(kMaxVectors));
  }
  dim_ = size_t(dim);
  num_vectors_ = size_t(num_vectors);
  if (kind == "identity") {
    kind_ = Kind::kIdentity;
    if (dim != num_vectors) refuse("an identity frame has as many vectors as dimensions");
  } else if (kind == "hadamard") {
    kind_ = Kind::kHadamard;
    prepare_hadamard();
  } else if (kind == "fusion") {
    kind_ = Kind::kFusion;
    prepare_fusion(attributes.subspaces);
  } else if (kind == "harmonic") {
    kind_ = Kind::kHarmonic;
    prepare_harmonic();
  } else {
    refuse("unknown frame \"" + kind + "\"");
  }
}

void Frame::prepare_hadamard() {
  padded_ = num_vectors_;
  while (padded_ % (2 * order_) == 0) order_ *= 2;
  scale_ = float(1 / std::sqrt(double(order_)));
  const size_t odd = padded_ / order_;
  if (odd > 63) {
    refuse("a Hadamard frame of " + std::to_string(padded_) + " vectors, whose odd part " +
           std::to_string(odd) + " is above 63");
  }
  if (odd > 1) {
    odd_ = dct(odd);
    odd_transposed_ = transpose(odd_, odd);
  }
  if (num_vectors_ > dim_) {
    uint64_t stride = (382 * padded_ + 999) / 1000;
    while (std::gcd(stride, uint64_t(padded_)) > 1) ++stride;
    for (uint64_t i = 0; i < dim_; ++i) places_.push_back(uint32_t(i * stride % padded_));
  }
  scratch_size_ = 2 * padded_;
}

void Frame::prepare_fusion(const std::vector<int64_t>& subspaces) {
  if (subspaces.size() != 3) refuse("the subspaces of a fusion frame are three numbers (k, l, n)");
  const int64_t k = subspaces[0], l = subspaces[1], n = subspaces[2];
  const bool sizes = k >= 1 && l >= 2 && l % 2 == 0 && n % 2 == 0 && n >= int64_t(dim_) &&
                     k <= kMaxVectors && l <= kMaxVectors && n <= kMaxVectors;
  if (!sizes || k * l != int64_t(num_vectors_) || !(l == n || 2 * l <= n)) {
    refuse("no fusion frame of subspaces (" + std::to_string(k) + ", " + std::to_string(l) + ", " +
           std::to_string(n) + ") has " + std::to_string(num_vectors_) + " vectors in dimension " +
           std::to_string(dim_));
  }
  padded_ = size_t(n);
  while (padded_ % (2 * order_) == 0) order_ *= 2;
  scale_ = float(1 / std::sqrt(double(order_)));
  vectors_per_row_ = size_t(2 * k);
  scratch_size_ = padded_ + std::max(dim_, padded_);

  // Squares of a row of spectral tetris, in units of 1/rows, sum to `columns`.
  const int64_t rows = l / 2, columns = n / 2;
  std::vector<double> entries;
  int64_t column = 0, carried = 0;
  size_t floats = 0;
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t start = column - int64_t(entries.size());
    int64_t missing = columns - carried;
    for (; missing >= rows; missing -= rows, ++column) entries.push_back(1);
    std::vector<double> next;
    carried = 0;
    if (missing > 0) {
      const double part = double(missing) / double(rows);
      entries.insert(entries.end(), 2, std::sqrt(part / 2));
      next = {std::sqrt(1 - part / 2), -std::sqrt(1 - part / 2)};
      carried = 2 * rows - missing;
      column += 2;
    }
    if (int64_t(entries.size()) > k) refuse("a fusion frame of too few subspaces to be tight");
    floats += 2 * entries.size() * vectors_per_row_;
    if (floats > kMaxTable) refuse("a fusion frame whose blocks are too large");
    Tetris tetris{size_t(2 * start), 2 * entries.size(), {}, {}};
    for (size_t c = 0; c < entries.size(); ++c) {
      std::vector<float> real, imaginary;  // what coordinates 2c and 2c + 1 give
      for (int64_t j = 0; j < k; ++j) {
        const double turn = 2 * M_PI * double(j * int64_t(c) % k) / double(k);
        const double size = entries[c] / std::sqrt(double(k));
        const float x = float(size * std::cos(turn)), y = float(size * std::sin(turn));
        real.insert(real.end(), {x, y});
        imaginary.insert(imaginary.end(), {-y, x});
      }
      tetris.block.insert(tetris.block.end(), real.begin(), real.end());
      tetris.block.insert(tetris.block.end(), imaginary.begin(), imaginary.end());
    }
    tetris.transposed = transpose(tetris.block, vectors_per_row_);
    tetris_.push_back(std::move(tetris));
    entries = std::move(next);
  }
}

// The two steps of fqonnx/runtime_ops/harmonic_nodes.py, where the symbols are explained.
void Frame::prepare_harmonic() {
  const size_t n = num_vectors_, frequencies = dim_ / 2 + 1;
  if (n == dim_ && dim_ % 2 == 0) refuse("a harmonic frame of even dimension needs more vectors");
  size_t least = SIZE_MAX;
  for (size_t n1 = 1; n1 <= n; ++n1) {
    if (n % n1) continue;
    const size_t k2 = (frequencies + n1 - 1) / n1, n2 = n / n1;
    const size_t cost = 2 * n1 * k2 * n2 + n1 * n1 * n2;
    if (cost < least) least = cost, n1_ = n1, n2_ = n2, k2_ = k2;
  }
  if (4 * k2_ * n2_ + 2 * n1_ * n1_ + 2 * n1_ * n2_ > kMaxTable) {
    refuse("a harmonic frame of " + std::to_string(n) + " vectors, which have no fast transform");
  }
  const auto angle = [](size_t product, size_t period) {
    return 2 * M_PI * double(product % period) / double(period);
  };
  inner_.resize(4 * k2_ * n2_);  // (K2, (a, b), (Re, Im), N2)
  for (size_t k = 0; k < k2_; ++k) {
    for (size_t i = 0; i < n2_; ++i) {
      const float c = float(std::cos(angle(k * i, n2_))), s = float(std::sin(angle(k * i, n2_)));
      float* at = &inner_[4 * k * n2_ + i];
      at[0] = c, at[n2_] = s, at[2 * n2_] = s, at[3 * n2_] = -c;
    }
  }
  const double scale = std::sqrt(2 / double(n));
  for (size_t i = 0; i < n1_; ++i) {  // (N1, N1, (Re, Im))
    for (size_t k = 0; k < n1_; ++k) {
      outer_.push_back(float(scale * std::cos(angle(k * i, n1_))));
      outer_.push_back(float(-scale * std::sin(angle(k * i, n1_))));
    }
  }
  for (size_t k = 0; k < n1_; ++k) {
    for (size_t i = 0; i < n2_; ++i) {
      cosines_.push_back(float(std::cos(angle(k * i, n))));
      sines_.push_back(float(std::sin(angle(k * i, n))));
    }
  }
  inner_transposed_ = transpose(inner_, 2 * n2_);
  outer_transposed_ = transpose(outer_, 2 * n1_);
  scratch_size_ = 2 * n1_ * k2_ + 2 * n1_ * n2_;
}

void Frame::hadamard_runs(const Kernels& kernels, float* x, size_t size) const {
  for (size_t i = 0; i < size; i += order_) kernels.hadamard(x + i, order_);
}

void Frame::analyse(const Kernels& kernels, const float* x, const uint8_t* signs, float* coeffs,
                    float* scratch) const {
  if (kind_ == Kind::kHarmonic) return analyse_harmonic(kernels, x, coeffs, scratch);
  const bool straight = kind_ == Kind::kHadamard && odd_.empty();
  float* padded = straight ? coeffs : scratch;
  if (places_.empty()) {
    kernels.apply_signs(x, signs, scale_, dim_, padded);
    std::fill(padded + dim_, padded + padded_, 0.0f);
  } else {
    float* signed_x = scratch + padded_;
    kernels.apply_signs(x, signs, scale_, dim_, signed_x);
    std::fill(padded, padded + padded_, 0.0f);
    for (size_t i = 0; i < dim_; ++i) padded[places_[i]] = signed_x[i];
  }
  hadamard_runs(kernels, padded, padded_);
  if (kind_ == Kind::kFusion) {
    for (const Tetris& row : tetris_) {
      kernels.matmul(padded + row.start, row.block.data(), coeffs, 1, row.width, vectors_per_row_);
      coeffs += vectors_per_row_;
    }
  } else if (!straight) {
    const size_t odd = padded_ / order_;
    kernels.matmul(odd_.data(), padded, coeffs, odd, odd, order_);
  }
}

void Frame::synthesise(const Kernels& kernels, const float* coeffs, const uint8_t* signs, float* x,
                       float* scratch) const {
  if (kind_ == Kind::kHarmonic) return synthesise_harmonic(kernels, coeffs, x, scratch);
  float* padded = scratch;
  if (kind_ == Kind::kFusion) {
    float* part = scratch + padded_;
    std::fill(padded, padded + padded_, 0.0f);
    for (const Tetris& row : tetris_) {
      kernels.matmul(coeffs, row.transposed.data(), part, 1, vectors_per_row_, row.width);
      for (size_t i = 0; i < row.width; ++i) padded[row.start + i] += part[i];
      coeffs += vectors_per_row_;
    }
  } else if (odd_.empty()) {
    std::copy(coeffs, coeffs + padded_, padded);
  } else {
    const size_t odd = padded_ / order_;
    kernels.matmul(odd_transposed_.data(), coeffs, padded, odd, odd, order_);
  }
  hadamard_runs(kernels, padded, padded_);
  const float* gathered = padded;
  if (!places_.empty()) {
    float* in_order = scratch + padded_;
    for (size_t i = 0; i < dim_; ++i) in_order[i] = padded[places_[i]];
    gathered = in_order;
  }
  kernels.apply_signs(gathered, signs, scale_, dim_, x);
}

// Multiplies (N1, (Re, Im), N2) by exp(±2πi·k1·n2/N).
void Frame::turn(float* x, bool backwards) const {
  const float sign = backwards ? -1.0f : 1.0f;
  for (size_t k = 0; k < n1_; ++k) {
    float *real = x + 2 * k * n2_, *imaginary = real + n2_;
    const float *cosines = &cosines_[k * n2_], *sines = &sines_[k * n2_];
    for (size_t i = 0; i < n2_; ++i) {
      const float a = real[i], b = imaginary[i], s = sign * sines[i];
      real[i] = a * cosines[i] - b * s;
      imaginary[i] = b * cosines[i] + a * s;
    }
  }
}

void Frame::analyse_harmonic(const Kernels& kernels, const float* x, float* coeffs,
                             float* scratch) const {
  float *pairs = scratch, *turned = scratch + 2 * n1_ * k2_;  // (N1, K2, 2), (N1, 2, N2)
  std::fill(pairs, turned, 0.0f);
  if (dim_ % 2) pairs[place_of_pair(0)] = float(M_SQRT1_2) * x[0];
  for (size_t k = 1; k <= dim_ / 2; ++k) {
    std::copy_n(x + dim_ % 2 + 2 * (k - 1), 2, pairs + place_of_pair(k));
  }
  kernels.matmul(pairs, inner_.data(), turned, n1_, 2 * k2_, 2 * n2_);
  turn(turned, false);
  kernels.matmul(outer_.data(), turned, coeffs, n1_, 2 * n1_, n2_);
}

void Frame::synthesise_harmonic(const Kernels& kernels, const float* coeffs, float* x,
                                float* scratch) const {
  float *pairs = scratch, *turned = scratch + 2 * n1_ * k2_;
  kernels.matmul(outer_transposed_.data(), coeffs, turned, 2 * n1_, n1_, n2_);
  turn(turned, true);
  kernels.matmul(turned, inner_transposed_.data(), pairs, n1_, 2 * n2_, 2 * k2_);
  if (dim_ % 2) x[0] = float(M_SQRT1_2) * pairs[place_of_pair(0)];
  for (size_t k = 1; k <= dim_ / 2; ++k) {
    std::copy_n(pairs + place_of_pair(k), 2, x + dim_ % 2 + 2 * (k - 1));
  }
}

}  // namespace fqonnx
