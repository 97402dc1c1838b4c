//! What the process holds in memory.

use std::ffi::c_void;
use std::ops::Range;

use rustix::mm::{Advice, madvise};

/// Has all threads take from two heaps: many are there for a moment only, and each would leave a heap of its own.
/// To be called before the first thread is started; `mallopt(3)`.
pub(crate) fn share_heaps() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the call takes no pointer and changes only what is allocated later.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
}

/// Gives back to the kernel what was needed once: free pages of the heap, `malloc_trim(3)`, and pages of the program's file,
/// which stay in the page cache and are mapped again when they are used again.
pub(crate) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the call takes no pointer and leaves what is allocated where it is.
    unsafe {
        libc::malloc_trim(0);
    }
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else {
        return;
    };
    let Some(program) = program(&maps, give_back as *const () as usize) else {
        return;
    };
    // SAFETY: the range is of mappings of the program's file that nobody has ever written to, so that each page that is
    // dropped is read from the file again, unchanged.
    let dropped = unsafe {
        madvise(
            program.start as *mut c_void,
            program.len(),
            Advice::LinuxDontNeed,
        )
    };
    if let Err(error) = dropped {
        tracing::debug!(%error, "cannot drop pages of the program");
    }
}

/// Where the program's code is, of which `address` is a part, and its constants if they are just before it, from the text
/// of `/proc/self/maps`, proc(5). Constants after it are left out: some were written when the program was loaded.
fn program(maps: &str, address: usize) -> Option<Range<usize>> {
    let mut constants = None;
    for line in maps.lines() {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let number = |text| usize::from_str_radix(text, 16).ok();
        let (start, end) = (number(start)?, number(end)?);
        let access = fields.next()?;
        // Device and inode.
        let file = (fields.nth(1)?, fields.next()?);
        match access {
            "r-xp" if (start..end).contains(&address) => {
                let before = constants.filter(|(_, until, of)| (*until, *of) == (start, file));
                return Some(before.map_or(start, |(from, ..)| from)..end);
            }
            "r--p" => constants = Some((start, end, file)),
            _ => constants = None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
10000-20000 r--p 00000000 fe:00 7    /bin/compose
20000-30000 r-xp 00010000 fe:00 7    /bin/compose
30000-40000 r--p 00020000 fe:00 7    /bin/compose
40000-50000 rw-p 00030000 fe:00 7    /bin/compose
60000-80000 r--p 00000000 fe:00 7    /bin/compose
80000-90000 r-xp 00010000 fe:00 8    /lib/libc.so
90000-a0000 rwxp 00020000 fe:00 8    /lib/libc.so
";

    #[test]
    fn only_what_nobody_has_written_to_is_found() {
        assert_eq!(program(MAPS, 0x2_1000), Some(0x1_0000..0x3_0000));
        assert_eq!(program(MAPS, 0x8_0000), Some(0x8_0000..0x9_0000));
        for elsewhere in [0x1_0000, 0x3_0000, 0x5_0000, 0x9_0000] {
            assert_eq!(program(MAPS, elsewhere), None);
        }
    }

    #[test]
    fn the_program_goes_on_without_them() {
        let text = "kept".repeat(1000);
        give_back();
        assert_eq!(text, "kept".repeat(1000));
    }
}
