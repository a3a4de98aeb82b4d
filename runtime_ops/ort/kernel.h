// What the adapter needs of ONNX Runtime's C API, with exceptions in the place of status objects.
#pragma once

#include <cstring>
#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

#ifdef FQONNX_ORT_HEADERS
#include <onnxruntime_c_api.h>
#else
#include "ort_abi.h"
#endif

#include "parallel.h"

namespace fqonnx {

// ONNX Runtime 1.17, the first with KernelContext_ParallelFor. Headers may be of a later one, which
// those who run the library need not have.
constexpr uint32_t kApiVersion = 17;
static_assert(ORT_API_VERSION >= kApiVersion, "the headers of ONNX Runtime are too old");

// Throws what a failed call says.
inline void check(const OrtApi& api, OrtStatus* status) {
  if (status == nullptr) return;
  const std::string message = api.GetErrorMessage(status);
  api.ReleaseStatus(status);
  throw std::runtime_error(message);
}

// Runs `call`; what it throws becomes a status that begins with `where`, since no exception may
// cross a C interface. What is wrong with the model is an invalid argument, all else a failure.
template <class Call>
OrtStatus* guarded(const OrtApi& api, const std::string& where, const Call& call) noexcept {
  const auto status = [&](OrtErrorCode code, const char* what) {
    return api.CreateStatus(code, (where + ": " + what).c_str());
  };
  try {
    try {
      call();
      return nullptr;
    } catch (const std::invalid_argument& error) {
      return status(ORT_INVALID_ARGUMENT, error.what());
    } catch (const std::exception& error) {
      return status(ORT_FAIL, error.what());
    }
  } catch (...) {  // no memory even for the message
    return api.CreateStatus(ORT_FAIL, "fqonnx: out of memory");
  }
}

// The attributes of a node.
class NodeInfo {
 public:
  NodeInfo(const OrtApi& api, const OrtKernelInfo* info) : api_(api), info_(info) {}

  std::string name() const {
    return text([&](char* out, size_t* size) {
      return api_.KernelInfo_GetNodeName(info_, out, size);
    });
  }

  int64_t integer(const char* attribute) const {
    int64_t value;
    check(api_, api_.KernelInfoGetAttribute_int64(info_, attribute, &value));
    return value;
  }

  std::string string(const char* attribute) const {
    return text([&](char* out, size_t* size) {
      return api_.KernelInfoGetAttribute_string(info_, attribute, out, size);
    });
  }

  std::string string_or(const char* attribute, const char* otherwise) const {
    size_t size = 0;
    OrtStatus* status = api_.KernelInfoGetAttribute_string(info_, attribute, nullptr, &size);
    if (status == nullptr) return string(attribute);
    api_.ReleaseStatus(status);
    return otherwise;
  }

  // Empty where the attribute is absent.
  std::vector<int64_t> integers(const char* attribute) const {
    size_t size = 0;
    OrtStatus* status = api_.KernelInfoGetAttributeArray_int64(info_, attribute, nullptr, &size);
    if (status != nullptr) {
      api_.ReleaseStatus(status);
      return {};
    }
    std::vector<int64_t> values(size);
    check(api_, api_.KernelInfoGetAttributeArray_int64(info_, attribute, values.data(), &size));
    return values;
  }

 private:
  template <class Read>
  std::string text(const Read& read) const {
    size_t size = 0;  // with the zero at the end
    check(api_, read(nullptr, &size));
    std::string value(size, '\0');
    check(api_, read(value.data(), &size));
    value.resize(size > 0 ? size - 1 : 0);
    return value;
  }

  const OrtApi& api_;
  const OrtKernelInfo* info_;
};

// The tensors of one run.
class RunContext {
 public:
  RunContext(const OrtApi& api, OrtKernelContext* context) : api_(api), context_(context) {
    check(api_, api_.KernelContext_GetInputCount(context_, &count_));
  }

  // Null where the input is absent.
  const OrtValue* input(size_t index) const {
    const OrtValue* value = nullptr;
    if (index < count_) check(api_, api_.KernelContext_GetInput(context_, index, &value));
    return value;
  }

  std::vector<int64_t> shape(const OrtValue* value) const {
    OrtTensorTypeAndShapeInfo* info;
    check(api_, api_.GetTensorTypeAndShape(value, &info));
    size_t rank = 0;
    std::vector<int64_t> shape;
    OrtStatus* status = api_.GetDimensionsCount(info, &rank);
    if (status == nullptr) {
      shape.resize(rank);
      status = api_.GetDimensions(info, shape.data(), rank);
    }
    api_.ReleaseTensorTypeAndShapeInfo(info);
    check(api_, status);
    return shape;
  }

  const void* address(const OrtValue* value) const {
    return mutable_data(const_cast<OrtValue*>(value));
  }

  // A file of weights that is mapped into memory may hold a tensor at any byte: what lies where its
  // elements may not be read is copied.
  template <class Element>
  const Element* data(const OrtValue* value) const {
    const void* data = address(value);
    if (reinterpret_cast<uintptr_t>(data) % alignof(Element) == 0) {
      return static_cast<const Element*>(data);
    }
    size_t size = sizeof(Element);
    for (const int64_t extent : shape(value)) size *= size_t(extent);
    copies_.emplace_back(size);
    std::memcpy(copies_.back().data(), data, size);
    return reinterpret_cast<const Element*>(copies_.back().data());
  }

  size_t output_count() const {
    size_t count = 0;
    check(api_, api_.KernelContext_GetOutputCount(context_, &count));
    return count;
  }

  OrtValue* output(size_t index, const std::vector<int64_t>& shape) const {
    OrtValue* value;
    check(api_, api_.KernelContext_GetOutput(context_, index, shape.data(), shape.size(), &value));
    return value;
  }

  void* mutable_data(OrtValue* value) const {
    void* data;
    check(api_, api_.GetTensorMutableData(value, &data));
    return data;
  }

 private:
  const OrtApi& api_;
  OrtKernelContext* context_;
  size_t count_ = 0;
  mutable std::vector<std::vector<char>> copies_;
};

// The session's own threads.
class SessionThreads : public ThreadPool {
 public:
  SessionThreads(const OrtApi& api, const OrtKernelContext* context)
      : api_(api), context_(context) {}

 private:
  void start(void (*call)(void*, size_t), size_t count, void* data) override {
    check(api_, api_.KernelContext_ParallelFor(context_, call, count, 0, data));
  }

  const OrtApi& api_;
  const OrtKernelContext* context_;
};

}  // namespace fqonnx
