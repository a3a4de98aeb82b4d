// Frames of docs/format.md: what follows from their attributes, and the transforms.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "kernels.h"

namespace fqonnx {

// The attributes of one side of an operator.
struct FrameAttributes {
  std::string kind;
  int64_t dim;
  int64_t num_vectors;
  std::vector<int64_t> subspaces;  // (k, l, n), for a fusion frame only
};

class Frame {
 public:
  // Throws std::invalid_argument where layout 1 has no such frame.
  explicit Frame(const FrameAttributes& attributes);

  bool is_identity() const { return kind_ == Kind::kIdentity; }
  bool has_signs() const { return kind_ == Kind::kHadamard || kind_ == Kind::kFusion; }
  // Whether each coefficient is a sum over all coordinates with signs of its own, so that all of
  // them are of one size whatever x is.
  bool spreads() const {
    return kind_ == Kind::kHadamard || (kind_ == Kind::kFusion && order_ == padded_);
  }
  size_t dim() const { return dim_; }
  size_t num_vectors() const { return num_vectors_; }
  size_t scratch_size() const { return scratch_size_; }

  // x·Tᵀ of one row. `scratch` has scratch_size() floats; an identity needs neither call.
  void analyse(const Kernels& kernels, const float* x, const uint8_t* signs, float* coeffs,
               float* scratch) const;
  // coeffs·T of one row.
  void synthesise(const Kernels& kernels, const float* coeffs, const uint8_t* signs, float* x,
                  float* scratch) const;

 private:
  friend class FrameTables;  // gives them to other devices

  enum class Kind { kIdentity, kHadamard, kFusion, kHarmonic };

  struct Tetris {  // one row of the fusion frame's blocks
    size_t start;
    size_t width;
    std::vector<float> block;       // (width, 2·k)
    std::vector<float> transposed;  // (2·k, width)
  };

  void prepare_hadamard();
  void prepare_fusion(const std::vector<int64_t>& subspaces);
  void prepare_harmonic();
  void hadamard_runs(const Kernels& kernels, float* x, size_t size) const;
  void analyse_harmonic(const Kernels& kernels, const float* x, float* coeffs,
                        float* scratch) const;
  void synthesise_harmonic(const Kernels& kernels, const float* coeffs, float* x,
                           float* scratch) const;
  void turn(float* x, bool backwards) const;
  // Of a frequency's two coordinates in (N1, K2, 2).
  size_t place_of_pair(size_t frequency) const {
    return 2 * (frequency % n1_ * k2_ + frequency / n1_);
  }

  Kind kind_;
  size_t dim_;
  size_t num_vectors_;
  size_t scratch_size_ = 0;

  size_t padded_ = 0;            // what a signed x is padded to
  size_t order_ = 1;             // 2^p of the Walsh–Hadamard transform
  float scale_ = 1;              // 2^(−p/2)
  std::vector<uint32_t> places_;  // of coordinates in the padded x; empty: in order
  std::vector<float> odd_;       // Q_q; empty: q = 1
  std::vector<float> odd_transposed_;
  size_t vectors_per_row_ = 0;  // 2·k
  std::vector<Tetris> tetris_;

  size_t n1_ = 0, n2_ = 0, k2_ = 0;  // the two steps of the harmonic frame
  std::vector<float> inner_, inner_transposed_, outer_, outer_transposed_, cosines_, sines_;
};

}  // namespace fqonnx
