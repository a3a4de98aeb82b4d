# Adds the kernels of this folder to fqonnx_ops: by nvcc, or for the host on the emulator.
set(kernels cublas.cu cuda_operator.cu decode.cu multiply.cu strips.cu transforms.cu
  trellis.cu unpacked.cu)
list(TRANSFORM kernels PREPEND kernels/cuda/)

if(FQONNX_CUDA STREQUAL EMULATED)
  set_source_files_properties(${kernels} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "-x;c++")
  target_sources(fqonnx_ops PRIVATE kernels/cuda/emulator.cpp)
  add_library(cublas_emulated MODULE kernels/cuda/emulated_cublas.cpp)
  target_include_directories(cublas_emulated PRIVATE kernels/cpu kernels/cuda)
  target_compile_definitions(cublas_emulated PRIVATE FQONNX_CUDA_EMULATED)
  set_target_properties(fqonnx_ops PROPERTIES BUILD_RPATH "$ORIGIN")  # where it looks for it
  target_compile_definitions(fqonnx_ops PRIVATE FQONNX_CUDA_EMULATED)
  target_compile_options(fqonnx_ops PRIVATE -Wno-unknown-pragmas -O1)  # built for one run of tests
else()
  include(CheckLanguage)
  check_language(CUDA)
  if(NOT CMAKE_CUDA_COMPILER AND FQONNX_CUDA STREQUAL AUTO)
    return()
  endif()
  enable_language(CUDA)
  # Machine code of Ampere, Ada and Hopper, of Blackwell where the compiler knows it, and PTX of
  # the last one for what comes later.
  set(FQONNX_CUDA_ARCHITECTURES "" CACHE STRING "GPUs to compile for, as CMake names them")
  if(FQONNX_CUDA_ARCHITECTURES)
    set(architectures ${FQONNX_CUDA_ARCHITECTURES})
  elseif(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 12.8)
    set(architectures 80-real 86-real 89-real 90-real 100-real 120)
  else()
    set(architectures 80-real 86-real 89-real 90)
  endif()
  set_target_properties(fqonnx_ops PROPERTIES
    CUDA_ARCHITECTURES "${architectures}"
    CUDA_STANDARD 17
    CUDA_RUNTIME_LIBRARY Static
    CUDA_VISIBILITY_PRESET hidden)
  list(JOIN architectures "," built_for)
  target_compile_definitions(fqonnx_ops PRIVATE
    FQONNX_CUDA_ARCHITECTURES="${built_for}" FQONNX_CUDA_TOOLKIT="${CMAKE_CUDA_COMPILER_VERSION}")
endif()

target_sources(fqonnx_ops PRIVATE
  ${kernels} kernels/cuda/frames.cpp kernels/cuda/interface.cpp ort/cuda_ops.cpp)
target_include_directories(fqonnx_ops PRIVATE kernels/cuda)
target_link_libraries(fqonnx_ops PRIVATE ${CMAKE_DL_LIBS})
target_compile_definitions(fqonnx_ops PRIVATE FQONNX_CUDA)
