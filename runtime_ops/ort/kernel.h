// What the adapter needs of ONNX Runtime's C API, with exceptions in the place of status objects.
#pragma once

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

// Throws what a failed call says.
inline void check(const OrtApi& api, OrtStatus* status) {
  if (status == nullptr) return;
  const std::string message = api.GetErrorMessage(status);
  api.ReleaseStatus(status);
  throw std::runtime_error(message);
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

  std::vector<int64_t> integers(const char* attribute) const {
    size_t size = 0;
    check(api_, api_.KernelInfoGetAttributeArray_int64(info_, attribute, nullptr, &size));
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

  template <class Element>
  const Element* data(const OrtValue* value) const {
    void* data;
    check(api_, api_.GetTensorMutableData(const_cast<OrtValue*>(value), &data));
    return static_cast<const Element*>(data);
  }

  OrtValue* output_value(const std::vector<int64_t>& shape) const {
    OrtValue* value;
    check(api_, api_.KernelContext_GetOutput(context_, 0, shape.data(), shape.size(), &value));
    return value;
  }

  void* mutable_data(OrtValue* value) const {
    void* data;
    check(api_, api_.GetTensorMutableData(value, &data));
    return data;
  }

  template <class Element>
  Element* output(const std::vector<int64_t>& shape) const {
    return static_cast<Element*>(mutable_data(output_value(shape)));
  }

 private:
  const OrtApi& api_;
  OrtKernelContext* context_;
  size_t count_ = 0;
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
