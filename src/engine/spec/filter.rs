//! Seccomp profiles as programs of the kernel.
//!
//! crun compiles a container's profile at every start, which takes longer than all the rest. It takes the program itself,
//! too, so that each profile has to be compiled only once. The work is libseccomp's, which crun and runc use as well; what
//! runc adds is added here: a call that is newer than any that the profile names fails as an unknown one (`ENOSYS`) and not
//! as a forbidden one, because C libraries then try an older call.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::fd::AsFd as _;
use std::sync::OnceLock;

use serde::Deserialize;

use crate::sys::seccomp::{Comparison, Library};

const ENOSYS: u32 = 38;
const EPERM: u32 = 1;
const ALLOW: u32 = 0x7fff_0000;
const LOG: u32 = 0x7ffc_0000;
const ERRNO: u32 = 0x0005_0000;
const TRACE: u32 = 0x7ff0_0000;

/// Architectures as libseccomp numbers them; but for the last one these are the kernel's `AUDIT_ARCH_*`.
const X86_64: u32 = 0xc000_003e;
const X32: u32 = 0x4000_003e;
/// Set in the numbers of x32's calls.
const X32_BIT: u32 = 0x4000_0000;

/// An OCI `linux.seccomp` as far as it becomes a program.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Seccomp {
    default_action: String,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    architectures: Vec<String>,
    #[serde(default)]
    flags: Vec<String>,
    listener_path: Option<String>,
    #[serde(default)]
    syscalls: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    names: Vec<String>,
    action: String,
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Vec<Argument>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u32,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

/// What compiled programs depend on beside the profile: the version of libseccomp. `None` where it is not installed.
pub fn compiler() -> Option<String> {
    let (major, minor, micro) = library()?.version();
    Some(format!("{major}.{minor}.{micro}"))
}

fn library() -> Option<&'static Library> {
    static LIBRARY: OnceLock<Option<Library>> = OnceLock::new();
    LIBRARY.get_or_init(Library::load).as_ref()
}

/// The program of a resolved profile, an array of `struct sock_filter`. `None` where there is no compiler, or where a program
/// is not all that the profile asks for: it names flags, or a listener that decides about calls.
pub fn compile(profile: &serde_json::Value) -> io::Result<Option<Vec<u8>>> {
    let profile = Seccomp::deserialize(profile)?;
    let notifies = |rule: &Rule| rule.action == "SCMP_ACT_NOTIFY";
    if !profile.flags.is_empty()
        || profile.listener_path.is_some()
        || profile.syscalls.iter().any(notifies)
    {
        return Ok(None);
    }
    let Some(library) = library() else {
        return Ok(None);
    };
    profile.compile(library).map(Some)
}

impl Seccomp {
    fn compile(&self, library: &Library) -> io::Result<Vec<u8>> {
        let default = action(&self.default_action, self.default_errno_ret)?;
        let mut filter = library.filter(default)?;
        let mut architectures = Vec::new();
        for name in &self.architectures {
            let short = name
                .strip_prefix("SCMP_ARCH_")
                .unwrap_or(name)
                .to_ascii_lowercase();
            let token = library.architecture(&short);
            let token = token.ok_or_else(|| invalid(format!("no architecture `{name}`")))?;
            filter.add_architecture(token)?;
            architectures.push(token);
        }
        for rule in &self.syscalls {
            let action = action(&rule.action, rule.errno_ret)?;
            if action == default {
                continue;
            }
            let conditions: Vec<Comparison> = rule
                .args
                .iter()
                .map(Argument::comparison)
                .collect::<io::Result<_>>()?;
            // Two conditions on one argument are alternatives, as all runtimes read them.
            let repeated = (0..6).any(|index| {
                let same = |argument: &&Argument| argument.index == index;
                rule.args.iter().filter(same).count() > 1
            });
            // A call that this library does not know yet is covered by the default.
            let numbers = rule.names.iter().filter_map(|name| library.call(0, name));
            for number in numbers {
                if repeated {
                    for condition in &conditions {
                        filter.add_rule(action, number, std::slice::from_ref(condition))?;
                    }
                } else {
                    filter.add_rule(action, number, &conditions)?;
                }
            }
        }
        let mut file = File::from(rustix::fs::memfd_create(
            "seccomp",
            rustix::fs::MemfdFlags::CLOEXEC,
        )?);
        filter.export(file.as_fd())?;
        file.rewind()?;
        let mut program = Vec::new();
        if default != ALLOW && default != LOG && default != ERRNO | ENOSYS {
            program = self.unknown_calls(library, &architectures);
        }
        file.read_to_end(&mut program)?;
        Ok(program)
    }

    /// The beginning of the program: calls beyond the last one that the profile names do not exist.
    fn unknown_calls(&self, library: &Library, architectures: &[u32]) -> Vec<u8> {
        let last = |architecture: u32| {
            let names = self.syscalls.iter().flat_map(|rule| &rule.names);
            names
                .filter_map(|name| library.call(architecture, name))
                .filter_map(|number| u32::try_from(number).ok())
                .max()
        };
        let mut program = Program::default();
        for token in architectures.iter().filter(|token| **token != X32) {
            let Some(last_number) = last(*token) else {
                continue;
            };
            let x32 = architectures.contains(&X32).then(|| last(X32)).flatten();
            match x32 {
                _ if *token != X86_64 => {
                    program.architecture(*token, &[jump_greater(last_number, 0, 1), unknown()]);
                }
                // Calls of x32 are left to libseccomp, for which they are of a foreign architecture.
                None => program.architecture(
                    *token,
                    &[
                        jump_set(X32_BIT, 2, 0),
                        jump_greater(last_number, 0, 1),
                        unknown(),
                    ],
                ),
                Some(last_x32) => program.architecture(
                    *token,
                    &[
                        jump_set(X32_BIT, 2, 0),
                        jump_greater(last_number, 0, 3),
                        unknown(),
                        jump_greater(last_x32, 0, 1),
                        unknown(),
                    ],
                ),
            }
        }
        program.0
    }
}

/// Instructions of the kernel's filter machine in the making.
#[derive(Default)]
struct Program(Vec<u8>);

/// `code`, `jt`, `jf`, `k` of `struct sock_filter`.
type Instruction = (u16, u8, u8, u32);

const LOAD: u16 = 0x20;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_SET: u16 = 0x45;
const RETURN: u16 = 0x06;
/// Places in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;

const fn jump_greater(value: u32, then: u8, otherwise: u8) -> Instruction {
    (JUMP_GREATER, then, otherwise, value)
}

const fn jump_set(value: u32, then: u8, otherwise: u8) -> Instruction {
    (JUMP_SET, then, otherwise, value)
}

const fn unknown() -> Instruction {
    (RETURN, 0, 0, ERRNO | ENOSYS)
}

impl Program {
    /// Has `checks` look at the number of a call on an architecture; what they let pass goes on after them.
    fn architecture(&mut self, token: u32, checks: &[Instruction]) {
        let skip = u8::try_from(checks.len() + 1).unwrap_or(u8::MAX);
        self.push((LOAD, 0, 0, ARCHITECTURE));
        self.push((JUMP_EQUAL, 0, skip, token));
        self.push((LOAD, 0, 0, NUMBER));
        for check in checks {
            self.push(*check);
        }
    }

    fn push(&mut self, (code, then, otherwise, value): Instruction) {
        self.0.extend(code.to_ne_bytes());
        self.0.extend([then, otherwise]);
        self.0.extend(value.to_ne_bytes());
    }
}

fn action(name: &str, code: Option<u32>) -> io::Result<u32> {
    let code = code.unwrap_or(EPERM) & 0xffff;
    Ok(match name {
        "SCMP_ACT_ALLOW" => ALLOW,
        "SCMP_ACT_ERRNO" => ERRNO | code,
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => 0,
        "SCMP_ACT_KILL_PROCESS" => 0x8000_0000,
        "SCMP_ACT_TRAP" => 0x0003_0000,
        "SCMP_ACT_TRACE" => TRACE | code,
        "SCMP_ACT_LOG" => LOG,
        _ => return Err(invalid(format!("no action `{name}`"))),
    })
}

impl Argument {
    fn comparison(&self) -> io::Result<Comparison> {
        let operator = match self.op.as_str() {
            "SCMP_CMP_NE" => 1,
            "SCMP_CMP_LT" => 2,
            "SCMP_CMP_LE" => 3,
            "SCMP_CMP_EQ" => 4,
            "SCMP_CMP_GE" => 5,
            "SCMP_CMP_GT" => 6,
            "SCMP_CMP_MASKED_EQ" => 7,
            other => return Err(invalid(format!("no operator `{other}`"))),
        };
        if self.index > 5 {
            return Err(invalid(format!("no argument {}", self.index)));
        }
        Ok(Comparison {
            argument: self.index,
            operator,
            value: self.value,
            second: self.value_two,
        })
    }
}

fn invalid(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}
