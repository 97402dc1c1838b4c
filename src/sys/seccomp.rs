//! libseccomp, loaded when it is needed: whoever has an OCI runtime that filters system calls has it, too, and nobody
//! else needs it.

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::ptr::NonNull;

const LIBRARY: &CStr = c"libseccomp.so.2";
/// `SCMP_FLTATR_CTL_OPTIMIZE`: 2 sorts the calls into a tree (libseccomp 2.5).
const OPTIMIZE: c_uint = 8;
const TREE: u32 = 2;
/// `__NR_SCMP_ERROR`.
const UNKNOWN: c_int = -1;

/// A condition on an argument; `struct scmp_arg_cmp`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Comparison {
    /// Number of the argument, 0 to 5.
    pub(crate) argument: c_uint,
    /// `enum scmp_compare`.
    pub(crate) operator: c_uint,
    pub(crate) value: u64,
    /// For a masked comparison.
    pub(crate) second: u64,
}

#[repr(C)]
struct Version {
    major: c_uint,
    minor: c_uint,
    micro: c_uint,
}

type Context = *mut c_void;

type GetVersion = unsafe extern "C" fn() -> *const Version;
type Init = unsafe extern "C" fn(u32) -> Context;
type Release = unsafe extern "C" fn(Context);
type SetAttribute = unsafe extern "C" fn(Context, c_uint, u32) -> c_int;
type ResolveArchitecture = unsafe extern "C" fn(*const c_char) -> u32;
type AddArchitecture = unsafe extern "C" fn(Context, u32) -> c_int;
type ResolveCall = unsafe extern "C" fn(u32, *const c_char) -> c_int;
type AddRule = unsafe extern "C" fn(Context, u32, c_int, c_uint, *const Comparison) -> c_int;
type Export = unsafe extern "C" fn(Context, c_int) -> c_int;

/// The functions of the library that we call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Library {
    version: GetVersion,
    init: Init,
    release: Release,
    attribute: SetAttribute,
    architecture: ResolveArchitecture,
    add_architecture: AddArchitecture,
    call: ResolveCall,
    add_rule: AddRule,
    export: Export,
}

impl Library {
    /// `None` where it is not installed.
    pub(crate) fn load() -> Option<Self> {
        // SAFETY: the name is a C string; initialisers of the library touch nothing of ours. It is never unloaded.
        let library = unsafe { libc::dlopen(LIBRARY.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        let library = NonNull::new(library)?;
        let find = |name: &CStr| {
            // SAFETY: the handle is open and the name is a C string.
            NonNull::new(unsafe { libc::dlsym(library.as_ptr(), name.as_ptr()) })
        };
        macro_rules! function {
            ($kind:ty, $name:literal) => {
                // SAFETY: the library's header gives the function of this name the type of the field; a function's
                // address and a pointer have the same form on every Linux.
                unsafe { std::mem::transmute::<NonNull<c_void>, $kind>(find($name)?) }
            };
        }
        Some(Self {
            version: function!(GetVersion, c"seccomp_version"),
            init: function!(Init, c"seccomp_init"),
            release: function!(Release, c"seccomp_release"),
            attribute: function!(SetAttribute, c"seccomp_attr_set"),
            architecture: function!(ResolveArchitecture, c"seccomp_arch_resolve_name"),
            add_architecture: function!(AddArchitecture, c"seccomp_arch_add"),
            call: function!(ResolveCall, c"seccomp_syscall_resolve_name_arch"),
            add_rule: function!(AddRule, c"seccomp_rule_add_array"),
            export: function!(Export, c"seccomp_export_bpf"),
        })
    }

    /// Major, minor and micro version.
    pub(crate) fn version(&self) -> (u32, u32, u32) {
        // SAFETY: the function takes nothing and returns a pointer to a static structure.
        let version = unsafe { (self.version)().as_ref() };
        version.map_or((0, 0, 0), |version| {
            (version.major, version.minor, version.micro)
        })
    }

    /// The library's number of an architecture, by its name as in `x86_64`.
    pub(crate) fn architecture(&self, name: &str) -> Option<u32> {
        let name = CString::new(name).ok()?;
        // SAFETY: the name is a C string that lives through the call.
        let token = unsafe { (self.architecture)(name.as_ptr()) };
        (token != 0).then_some(token)
    }

    /// The number of a call on an architecture (0: this one). Calls that only other architectures have are negative.
    pub(crate) fn call(&self, architecture: u32, name: &str) -> Option<c_int> {
        let name = CString::new(name).ok()?;
        // SAFETY: the name is a C string that lives through the call.
        let number = unsafe { (self.call)(architecture, name.as_ptr()) };
        (number != UNKNOWN).then_some(number)
    }

    /// A filter that does `action` with whatever no rule covers.
    pub(crate) fn filter(&self, action: u32) -> io::Result<Filter> {
        // SAFETY: the function takes a number.
        let context = NonNull::new(unsafe { (self.init)(action) });
        let context = context.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let filter = Filter {
            library: *self,
            context,
        };
        // An old library cannot, and its filter does the same.
        // SAFETY: the context is live.
        unsafe { (self.attribute)(filter.context.as_ptr(), OPTIMIZE, TREE) };
        Ok(filter)
    }
}

/// A filter in the making.
#[derive(Debug)]
pub(crate) struct Filter {
    library: Library,
    context: NonNull<c_void>,
}

impl Filter {
    pub(crate) fn add_architecture(&mut self, token: u32) -> io::Result<()> {
        // SAFETY: the context is live.
        let code = unsafe { (self.library.add_architecture)(self.context.as_ptr(), token) };
        match code {
            // It is the native one, which every filter begins with.
            code if code == -libc::EEXIST => Ok(()),
            code => check(code),
        }
    }

    /// Does `action` with the call `number` where all `conditions` hold.
    pub(crate) fn add_rule(
        &mut self,
        action: u32,
        number: c_int,
        conditions: &[Comparison],
    ) -> io::Result<()> {
        let count = c_uint::try_from(conditions.len()).map_err(io::Error::other)?;
        // SAFETY: the context is live, and the array has as many elements as its length says.
        check(unsafe {
            (self.library.add_rule)(
                self.context.as_ptr(),
                action,
                number,
                count,
                conditions.as_ptr(),
            )
        })
    }

    /// Writes the program, an array of `struct sock_filter`.
    pub(crate) fn export(&self, file: BorrowedFd<'_>) -> io::Result<()> {
        // SAFETY: the context is live and the descriptor is open.
        check(unsafe { (self.library.export)(self.context.as_ptr(), file.as_raw_fd()) })
    }
}

impl Drop for Filter {
    fn drop(&mut self) {
        // SAFETY: the context is live, and this is its end.
        unsafe { (self.library.release)(self.context.as_ptr()) }
    }
}

fn check(code: c_int) -> io::Result<()> {
    if code < 0 {
        return Err(io::Error::from_raw_os_error(-code));
    }
    Ok(())
}
