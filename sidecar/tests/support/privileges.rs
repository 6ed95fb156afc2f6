//! `init` as the container runtime starts it: without root, with one capability or none, from a binary with a file
//! capability or without.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use testimony_core::contract::id;
use testimony_sidecar::init::{self, InitConfig};

use crate::netns::Pair;

/// Makes this test program run `init` instead of the tests.
const HELPER_VARIABLE: &str = "TESTIMONY_TEST_INIT";
const CAP_LAST: libc::c_ulong = 63;
const NET_ADMIN_BIT: libc::c_ulong = 12;

/// In a helper process: runs `init` and gives the exit code.
pub fn helper() -> Option<i32> {
    std::env::var_os(HELPER_VARIABLE)?;
    Some(match init::run(&InitConfig::default()) {
        Ok(report) => {
            println!("{report}");
            0
        }
        Err(error) => {
            eprintln!("{error}");
            error.exit_code().into()
        }
    })
}

/// A copy of this test program that every user can start; removed in the end.
struct Binary(PathBuf);

impl Binary {
    fn copy(name: &str) -> Self {
        let to = std::env::temp_dir().join(format!("testimony-{name}-{}", std::process::id()));
        std::fs::copy(std::env::current_exe().expect("own path"), &to).expect("copy");
        std::fs::set_permissions(&to, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("permissions");
        Self(to)
    }

    /// The file capability of the image: `cap_net_admin` permitted, no effective bit.
    fn with_file_capability(self) -> Self {
        // `vfs_cap_data`, revision 2: magic, then (permitted, inheritable) for the low and the high 32 bits.
        let value: Vec<u8> =
            [0x0200_0000_u32, 1 << NET_ADMIN_BIT, 0, 0, 0].iter().flat_map(|word| word.to_le_bytes()).collect();
        let path = CString::new(self.0.as_os_str().as_bytes()).expect("path");
        let name = c"security.capability";
        // SAFETY: the strings end in zero; the pointer and the length describe `value`.
        let rc = unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
        assert_eq!(rc, 0, "setxattr on {}: {}", self.0.display(), io::Error::last_os_error());
        self
    }
}

impl Drop for Binary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: libc::c_int,
}

/// Becomes what a container runtime makes of a process before it starts the image's program: bounding, permitted,
/// effective and inheritable set are the same, no ambient set, no new privileges.
fn become_container(uid: u32, gid: u32, net_admin: bool) -> io::Result<()> {
    let check = |rc: libc::c_long| if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
    let granted = |bit| net_admin && bit == NET_ADMIN_BIT;
    // SAFETY: plain system calls; the pointers are to values that outlive them.
    unsafe {
        for bit in (0..=CAP_LAST).filter(|&bit| !granted(bit)) {
            // Fails for bits that this kernel does not know, which then are not in the set either.
            libc::prctl(libc::PR_CAPBSET_DROP, bit, 0, 0, 0);
        }
        check(libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0).into())?;
        check(libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()))?;
        check(libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
        check(libc::syscall(libc::SYS_setresuid, uid, uid, uid))?;
        let mask: u32 = if net_admin { 1 << NET_ADMIN_BIT } else { 0 };
        let mut header = CapHeader { version: 0x2008_0522, pid: 0 };
        let words = [[mask; 3], [0; 3]];
        check(libc::syscall(libc::SYS_capset, &mut header, words.as_ptr()))?;
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0).into())
    }
}

fn start(pair: &Pair, program: &Path, (uid, gid): (u32, u32), net_admin: bool) -> Output {
    let mut command = Command::new(program);
    command.env(HELPER_VARIABLE, "1");
    // SAFETY: between fork and exec the closure only makes system calls.
    unsafe { command.pre_exec(move || become_container(uid, gid, net_admin)) };
    pair.pod.run(|| command.output()).unwrap_or_else(|error| panic!("start {}: {error}", program.display()))
}

pub fn permitted_only_file_capability() {
    const INIT: (u32, u32) = (id::INIT_UID, id::INIT_GID);
    let plain = Binary::copy("plain");
    let capable = Binary::copy("capable").with_file_capability();
    for (name, binary, identity, net_admin, wanted) in [
        ("as shipped", &capable, INIT, true, 0),
        (
            "NET_ADMIN not added, as in the sidecar's own container: it starts, and says what is missing",
            &capable,
            INIT,
            false,
            77,
        ),
        ("image without the file capability", &plain, INIT, true, 77),
        ("init.runAsRoot", &plain, (0, 0), true, 0),
        ("root without NET_ADMIN", &plain, (0, 0), false, 77),
    ] {
        let pair = Pair::new();
        let output = start(&pair, &binary.0, identity, net_admin);
        let said = String::from_utf8_lossy(if wanted == 0 { &output.stdout } else { &output.stderr }).into_owned();
        assert_eq!(output.status.code(), Some(wanted), "{name}: {output:?}");
        let rules = pair.pod.sh("nft list ruleset");
        if wanted == 0 {
            assert!(
                said.starts_with("redirect rules in force (table inet testimony); IPv4 redirected"),
                "{name}: {said}"
            );
            assert!(rules.contains("redirect to :24802"), "{name}: {rules}");
        } else {
            assert!(
                said.contains("capabilities.add: [NET_ADMIN]") && said.contains("init.runAsRoot"),
                "{name}: {said}"
            );
            assert_eq!(rules, "", "{name}");
        }
    }
}

pub fn the_sidecars_own_identity_is_refused() {
    let capable = Binary::copy("identity").with_file_capability();
    let pair = Pair::new();
    let output = start(&pair, &capable.0, (id::SIDECAR_UID, id::SIDECAR_GID), true);
    assert_eq!(output.status.code(), Some(64), "{output:?}");
    assert_eq!(pair.pod.sh("nft list ruleset"), "");
}
