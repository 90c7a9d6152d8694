#include "kernels/cuda/jit.h"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/util/hash.h>
#include <cuda_runtime_api.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <future>
#include <map>
#include <mutex>
#include <sstream>
#include <unordered_map>

#include "core/environment.h"
#include "core/error.h"
#include "kernels/cuda/driver.h"
#include "kernels/cuda/embedded.h"
#include "kernels/without_compiler.h"

namespace torchweld::cuda {
namespace {

namespace fs = std::filesystem;

constexpr const char* kFileMark = "torchweld cubin 1\n";

std::string digest(const std::string& text) { return c10::sha1(text).str(); }

void check_nvrtc(nvrtcResult result, const char* doing) {
  if (result == NVRTC_SUCCESS) return;
  throw InternalError(std::string("NVRTC failed to ") + doing + ": " + nvrtc().get_error_string(result));
}

std::string nvrtc_version() {
  int major = 0;
  int minor = 0;
  check_nvrtc(nvrtc().version(&major, &minor), "tell its version");
  return std::to_string(major) + "." + std::to_string(minor);
}

std::vector<std::string> compile_options(const Program& program, const std::string& arch) {
  std::vector<std::string> options = {"--gpu-architecture=" + arch,          "--std=c++17",
                                      "--device-as-default-execution-space", "--minimal",
                                      "--extra-device-vectorization",        "--ptxas-options=--verbose"};
  if (program.coarse) options.insert(options.end(), {"--prec-div=false", "--prec-sqrt=false"});
  return options;
}

std::string key_of(const Program& program, const std::string& arch) {
  // Never destroyed: programs may still be compiled when the process ends.
  static const auto& headers = *new const std::string([] {
    std::string all;
    for (const EmbeddedHeader& header : embedded_headers()) all += std::string(header.name) + "\n" + header.text;
    return digest(all);
  }());
  static const auto& version = *new const std::string(nvrtc_version());
  std::string all = version + "\n" + headers + "\n";
  for (const std::string& option : compile_options(program, arch)) all += option + "\n";
  return program.name + "-" + arch + "-" + digest(all + program.text);
}

/// Machine code on disk, one file per key: mark, digest of the code, code. Damaged files are as good as none.
class CubinFolder {
 public:
  CubinFolder() {
    std::string folder = environment("TORCHWELD_CACHE");
    const char* home = std::getenv("HOME");
    if (!folder.empty()) {
      folder_ = folder;
    } else if (home && *home) {
      folder_ = fs::path(home) / ".cache" / "torchweld";
    }
  }

  std::string read(const std::string& key) const {
    if (folder_.empty()) return "";
    std::ifstream file(folder_ / key, std::ios::binary);
    std::stringstream content;
    content << file.rdbuf();
    std::string text = content.str();
    std::string mark = kFileMark;
    size_t head = mark.size() + 40;
    if (text.size() <= head || !text.starts_with(mark)) return "";
    std::string code = text.substr(head);
    return digest(code) == text.substr(mark.size(), 40) ? code : "";
  }

  /// A folder that cannot be written only costs time.
  void write(const std::string& key, const std::string& code) const {
    if (folder_.empty()) return;
    std::error_code failed;
    fs::create_directories(folder_, failed);
    fs::path unfinished = folder_ / (key + "." + std::to_string(getpid()) + ".part");
    {
      std::ofstream file(unfinished, std::ios::binary);
      file << kFileMark << digest(code) << code;
      if (!file.flush()) return;
    }
    fs::rename(unfinished, folder_ / key, failed);
    if (failed) fs::remove(unfinished, failed);
  }

 private:
  fs::path folder_;
};

/// Machine code by key, and who is compiling what.
class CubinStore {
 public:
  using Code = std::shared_future<std::string>;

  /// The code of `key`; `make` is called by the first thread that asks.
  template <class F>
  std::string get(const std::string& key, F make) {
    std::promise<std::string> promise;
    Code code;
    bool mine = false;
    {
      std::lock_guard lock(mutex_);
      auto found = codes_.find(key);
      mine = found == codes_.end();
      code = mine ? codes_.emplace(key, promise.get_future().share()).first->second : found->second;
    }
    if (!mine) return code.get();
    try {
      promise.set_value(make());
    } catch (...) {
      promise.set_exception(std::current_exception());
      std::lock_guard lock(mutex_);
      codes_.erase(key);
    }
    return code.get();
  }

  /// Makes code known, unless there is none or somebody is making it or has made it.
  void put(const std::string& key, std::string code) {
    if (code.empty()) return;
    std::promise<std::string> promise;
    promise.set_value(std::move(code));
    std::lock_guard lock(mutex_);
    codes_.try_emplace(key, promise.get_future().share());
  }

  /// Whether find() has the code without waiting.
  bool has(const std::string& key) {
    std::lock_guard lock(mutex_);
    auto found = codes_.find(key);
    return found != codes_.end() && found->second.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
  }

  /// The code of `key`, once whoever makes it is done; empty when nobody has asked for it.
  std::string find(const std::string& key) {
    Code code;
    {
      std::lock_guard lock(mutex_);
      auto found = codes_.find(key);
      if (found == codes_.end()) return "";
      code = found->second;
    }
    return code.get();
  }

 private:
  std::mutex mutex_;
  std::map<std::string, Code> codes_;
};

CubinStore& store() {
  static auto* instance = new CubinStore;
  return *instance;
}

/// Entry points by program and device, so that whoever asks again needs no digest of the text. Modules stay loaded, and
/// take much more memory than texts.
class LoadedFunctions {
 public:
  struct Entry {
    CUfunction function = nullptr;
    unsigned shared_bytes = 48 << 10;  // What a launch may use without asking.
    std::string key;
  };

  std::mutex& mutex() { return mutex_; }
  /// Null where there is none. The mutex is held.
  Entry* find(const Program& program, int device) {
    auto found = entries_.find({program, device});
    return found == entries_.end() ? nullptr : &found->second;
  }
  Entry& add(const Program& program, int device) { return entries_[{program, device}]; }
  /// Empty where the program has not been loaded.
  std::string key_of(const Program& program, int device) {
    std::lock_guard lock(mutex_);
    Entry* entry = find(program, device);
    return entry ? entry->key : "";
  }

 private:
  using Place = std::pair<Program, int>;
  struct Hash {
    size_t operator()(const Place& place) const { return std::hash<std::string>()(place.first.text); }
  };

  std::mutex mutex_;
  std::unordered_map<Place, Entry, Hash> entries_;
};

LoadedFunctions& loaded() {
  static auto* instance = new LoadedFunctions;
  return *instance;
}

/// Destroys the program on every way out.
class NvrtcProgram {
 public:
  explicit NvrtcProgram(const Program& program) {
    std::vector<const char*> names;
    std::vector<const char*> texts;
    for (const EmbeddedHeader& header : embedded_headers()) {
      names.push_back(header.name);
      texts.push_back(header.text);
    }
    check_nvrtc(nvrtc().create_program(&handle_, program.text.c_str(), (program.name + ".cu").c_str(),
                                       static_cast<int>(names.size()), texts.data(), names.data()),
                "take a program");
  }
  ~NvrtcProgram() { nvrtc().destroy_program(&handle_); }
  NvrtcProgram(const NvrtcProgram&) = delete;
  NvrtcProgram& operator=(const NvrtcProgram&) = delete;

  nvrtcResult compile(const std::vector<std::string>& options) {
    std::vector<const char*> words;
    for (const std::string& option : options) words.push_back(option.c_str());
    return nvrtc().compile_program(handle_, static_cast<int>(words.size()), words.data());
  }
  std::string log() const {
    size_t size = 0;
    check_nvrtc(nvrtc().get_program_log_size(handle_, &size), "give its log");
    std::string text(size, '\0');
    check_nvrtc(nvrtc().get_program_log(handle_, text.data()), "give its log");
    return text.c_str();
  }
  std::string cubin() const {
    size_t size = 0;
    check_nvrtc(nvrtc().get_cubin_size(handle_, &size), "give machine code");
    std::string code(size, '\0');
    check_nvrtc(nvrtc().get_cubin(handle_, code.data()), "give machine code");
    return code;
  }

 private:
  nvrtcProgram handle_ = nullptr;
};

}  // namespace

std::string arch_name(int major, int minor) {
  std::string name = "sm_" + std::to_string(10 * major + minor);
  return major == 9 && minor == 0 ? name + "a" : name;
}

std::string arch_of_device(int device) {
  int major = 0;
  int minor = 0;
  C10_CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  C10_CUDA_CHECK(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
  // Machine code runs on later minor versions of its major version too.
  int count = 0;
  check_nvrtc(nvrtc().get_num_supported_archs(&count), "list architectures");
  std::vector<int> known(count);
  check_nvrtc(nvrtc().get_supported_archs(known.data()), "list architectures");
  for (int m = minor; m >= 0; --m) {
    if (std::find(known.begin(), known.end(), 10 * major + m) != known.end()) return arch_name(major, m);
  }
  throw UnavailableError("NVRTC " + nvrtc_version() + " cannot compile for the GPU's architecture " +
                         arch_name(major, minor) + "; use a torch built with another CUDA version");
}

Compiled compile_afresh(const Program& program, const std::string& arch) {
  NvrtcProgram unit(program);
  nvrtcResult result = unit.compile(compile_options(program, arch));
  if (result != NVRTC_SUCCESS) {
    throw InternalError("device code '" + program.name + "' does not compile for " + arch + ":\n" + unit.log() +
                        program.text);
  }
  return {unit.cubin(), unit.log()};
}

std::string compile(const Program& program, const std::string& arch) {
  std::string key = key_of(program, arch);
  if (WithoutCompiler::is_alive()) {
    if (!store().has(key)) store().put(key, CubinFolder().read(key));
    expect(store().has(key), "'" + program.name + "' has not been compiled");
    return key;
  }
  store().get(key, [&] {
    CubinFolder folder;
    std::string code = folder.read(key);
    if (!code.empty()) return code;
    log(4, "compiling " + key);
    code = compile_afresh(program, arch).cubin;
    folder.write(key, code);
    return code;
  });
  return key;
}

std::string key_of(const Program& program, int device) {
  std::string key = loaded().key_of(program, device);
  return key.empty() ? key_of(program, arch_of_device(device)) : key;
}

bool is_compiled(const Program& program, int device) { return store().has(key_of(program, device)); }

bool is_loaded(const Program& program, int device) { return !loaded().key_of(program, device).empty(); }

Function load(const Program& program, int device, unsigned shared_bytes, unsigned cluster) {
  std::unique_lock lock(loaded().mutex());
  LoadedFunctions::Entry* known = loaded().find(program, device);
  if (!known) {
    lock.unlock();
    std::string key = compile(program, arch_of_device(device));
    lock.lock();
    known = &loaded().add(program, device);
    known->key = std::move(key);
  }
  LoadedFunctions::Entry& entry = *known;
  CUfunction& function = entry.function;
  if (!function) {
    c10::cuda::CUDAGuard guard(static_cast<c10::DeviceIndex>(device));
    C10_CUDA_CHECK(cudaFree(nullptr));  // Makes the device's primary context current.
    CUmodule module = nullptr;
    check_driver(driver().module_load_data(&module, store().find(entry.key).data()), "load machine code");
    check_driver(driver().module_get_function(&function, module, "kernel"), "find a kernel's entry point");
    // Neighbouring kernels with different splits of the SM's memory do not overlap, so all ask for the same one.
    constexpr int kMostSharedMemory = 100;
    check_driver(
        driver().func_set_attribute(function, CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT, kMostSharedMemory),
        "choose a kernel's split of memory");
  }
  // Launches of several sizes share a function, and the largest must stay allowed.
  if (shared_bytes > entry.shared_bytes) {
    entry.shared_bytes = shared_bytes;
    check_driver(driver().func_set_attribute(function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                                             static_cast<int>(shared_bytes)),
                 "give a kernel " + std::to_string(shared_bytes) + " bytes of shared memory");
  }
  constexpr unsigned kPortableCluster = 8;
  if (cluster > kPortableCluster) {
    check_driver(driver().func_set_attribute(function, CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED, 1),
                 "allow a kernel clusters of " + std::to_string(cluster) + " blocks");
  }
  return {function, entry.key};
}

std::vector<std::pair<std::string, std::string>> export_cubins(const std::vector<std::string>& keys) {
  std::vector<std::pair<std::string, std::string>> cubins;
  for (const std::string& key : keys) {
    std::string code = store().find(key);
    if (!code.empty()) cubins.emplace_back(key, std::move(code));
  }
  return cubins;
}

void import_cubins(const std::vector<std::pair<std::string, std::string>>& cubins) {
  for (const auto& [key, code] : cubins) store().put(key, code);
}

}  // namespace torchweld::cuda
