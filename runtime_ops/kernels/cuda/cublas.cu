#include "cublas.h"

#include <dlfcn.h>

#include <map>
#include <type_traits>

namespace fqonnx::cuda {
namespace {

#ifdef FQONNX_CUDA_EMULATED
constexpr const char* kNames[] = {"libcublas_emulated.so"};
#else
constexpr const char* kNames[] = {"libcublas.so.13", "libcublas.so.12"};
#endif

// What is used of cublas_api.h, whose enumerations are integers here.
constexpr int kPlain = 0, kTransposed = 1;
constexpr int kComputeFloat = 68, kDefaultAlgorithm = -1;
constexpr int kNoReducedPrecisionReduction = 16;

int data_type(Element element) {
  return element == Element::kFloat ? 0 : element == Element::kHalf ? 2 : 14;
}

struct Library {
  int (*create)(void** handle);
  int (*set_stream)(void* handle, cudaStream_t stream);
  int (*set_workspace)(void* handle, void* workspace, size_t bytes);
  int (*set_math_mode)(void* handle, int mode);
  int (*gemm)(void* handle, int transpose_a, int transpose_b, int m, int n, int k,
              const void* alpha, const void* a, int a_type, int lda, const void* b, int b_type,
              int ldb, const void* beta, void* c, int c_type, int ldc, int compute_type,
              int algorithm);
};

// One that the process has comes first: two versions side by side are memory for nothing.
void* open_library() {
  for (const int flags : {RTLD_NOW | RTLD_NOLOAD, RTLD_NOW}) {
    for (const char* name : kNames) {
      if (void* library = dlopen(name, flags)) return library;
    }
  }
  return nullptr;
}

// Null where there is no cuBLAS, or none that is known.
const Library* find_library() {
  static const Library library = [] {
    Library found{};
    void* const opened = open_library();
    if (opened == nullptr) return found;
    bool complete = true;
    const auto find = [&](auto& function, const char* name) {
      void* const symbol = dlsym(opened, name);
      function = reinterpret_cast<std::decay_t<decltype(function)>>(symbol);
      complete &= symbol != nullptr;
    };
    find(found.create, "cublasCreate_v2");
    find(found.set_stream, "cublasSetStream_v2");
    find(found.set_workspace, "cublasSetWorkspace_v2");
    find(found.set_math_mode, "cublasSetMathMode");
    find(found.gemm, "cublasGemmEx");
    return complete ? found : Library{};
  }();
  return library.create == nullptr ? nullptr : &library;
}

void expect_success(int status) {
  if (status != 0) throw std::runtime_error("cuBLAS: status " + std::to_string(status));
}

}  // namespace

const Cublas* Cublas::of_current_device() {
  // Never destroyed: at the end of the process CUDA may be gone before a handle is.
  static auto& made = *new std::map<int, const Cublas*>;
  static std::mutex mutex;
  const std::lock_guard<std::mutex> lock(mutex);
  const int device = current_device().index;
  const auto [at, is_new] = made.try_emplace(device, nullptr);
  const Library* const library = find_library();
  void* handle;
  if (is_new && library != nullptr && library->create(&handle) == 0 &&
      library->set_math_mode(handle, kNoReducedPrecisionReduction) == 0) {
    at->second = new Cublas(device, handle);
  }
  return at->second;
}

void Cublas::multiply(const Gemm& gemm, void* workspace, size_t workspace_bytes,
                      cudaStream_t stream) const {
  const Library& library = *find_library();
  const std::lock_guard<std::mutex> lock(mutex_);
  expect_success(library.set_stream(handle_, stream));  // takes the workspace away: it comes first
  expect_success(library.set_workspace(handle_, workspace, workspace_bytes));
  // To cuBLAS, whose matrices go down columns, all of them are transposed.
  const float alpha = 1, beta = gemm.adds ? 1 : 0;
  const int type = data_type(gemm.element), depth = int(gemm.depth);
  expect_success(library.gemm(handle_, kTransposed, kPlain, int(gemm.columns), int(gemm.rows),
                              depth, &alpha, gemm.weight, type, depth, gemm.x, type, depth, &beta,
                              gemm.y, data_type(gemm.y_element), int(gemm.pitch), kComputeFloat,
                              kDefaultAlgorithm));
}

}  // namespace fqonnx::cuda
