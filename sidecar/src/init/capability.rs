//! The one capability that `init` needs, raised by itself.
//!
//! The binary's file capability is permitted-only: with the effective bit, a container that lacks NET_ADMIN (the sidecar
//! itself, which drops all) could not start the binary at all.

use std::io;

/// `_LINUX_CAPABILITY_VERSION_3`: sets of 64 bits, as two words.
const VERSION_3: u32 = 0x2008_0522;
/// `CAP_NET_ADMIN`, bit of the first word.
const NET_ADMIN: u32 = 1 << 12;

/// Why `CAP_NET_ADMIN` cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum CapabilityError {
    /// The process may not have it.
    #[error(
        "CAP_NET_ADMIN is not permitted to this process: either the container does not add it \
         (securityContext.capabilities.add: [NET_ADMIN]), or the image lost the file capability of the binary \
         (security.capability; set init.runAsRoot=true in the chart for such an image)"
    )]
    NotPermitted,
    /// The kernel refused to read or to set the capabilities.
    #[error("capabilities of this process: {0}")]
    Kernel(#[from] io::Error),
}

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: libc::c_int,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapWord {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Makes `CAP_NET_ADMIN` effective in the calling thread.
///
/// # Errors
/// [`CapabilityError::NotPermitted`] when it is not in the permitted set.
pub(super) fn raise_net_admin() -> Result<(), CapabilityError> {
    let mut header = CapHeader { version: VERSION_3, pid: 0 };
    let mut words = [CapWord::default(); 2];
    // SAFETY: version 3 reads the header and writes two words; both outlive the call.
    if unsafe { libc::syscall(libc::SYS_capget, &mut header, words.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error().into());
    }
    let [first, _] = &mut words;
    if first.permitted & NET_ADMIN == 0 {
        return Err(CapabilityError::NotPermitted);
    }
    if first.effective & NET_ADMIN != 0 {
        return Ok(());
    }
    first.effective |= NET_ADMIN;
    // SAFETY: version 3 reads the header and two words; both outlive the call.
    if unsafe { libc::syscall(libc::SYS_capset, &mut header, words.as_ptr()) } != 0 {
        return Err(io::Error::last_os_error().into());
    }
    Ok(())
}
