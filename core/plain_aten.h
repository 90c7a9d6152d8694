// ATen calls that are nothing but computation, whatever the caller has switched on.
#pragma once

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/DispatchKeySet.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

namespace torchweld {

/// While alive, autocast is off in this thread, for ATen calls and for the TorchScript that it runs or lowers.
class NoAutocast {
 private:
  c10::impl::ExcludeDispatchKeyGuard excluded_{c10::autocast_dispatch_keyset};
};

/// While alive, ATen calls of this thread record no gradients and take no part in autocast.
class PlainAten {
 private:
  c10::AutoGradMode no_grad_{false};
  at::AutoDispatchBelowADInplaceOrView below_autograd_;
  NoAutocast no_autocast_;
};

}  // namespace torchweld
