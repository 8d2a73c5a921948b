//! Where a secret's value is kept while the agent holds it.

use std::fmt;
use std::io;
use std::ptr::{self, NonNull};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mlock, mmap_anonymous, munmap};
use zeroize::Zeroize;

/// The longest secret in bytes (AWS Secrets Manager's limit, the largest of the sources').
pub(crate) const MAX_SECRET: usize = 64 << 10;

/// The unit of a mapping. Larger pages only make the kernel round up.
const PAGE: usize = 4096;

/// A password or key in pages of its own: left out of core dumps, kept from swap where the host lets
/// us, and overwritten before they go back to the kernel. It shows in no log, error or `Debug` output.
pub(crate) struct Secret {
    start: NonNull<u8>,
    mapped: usize,
    used: usize,
}

impl Secret {
    /// Takes a copy of `value`. What it was copied from is the caller's to overwrite.
    ///
    /// # Errors
    /// It is longer than [`MAX_SECRET`], or the kernel gives no memory that can be kept out of dumps.
    #[allow(unsafe_code, reason = "memory with advice of its own can only be had from the kernel")]
    pub(crate) fn new(value: &[u8]) -> io::Result<Self> {
        if value.len() > MAX_SECRET {
            return Err(io::Error::other(format!("it has more than {MAX_SECRET} bytes")));
        }
        let mapped = value.len().max(1).next_multiple_of(PAGE);
        // SAFETY: a new mapping at an address of the kernel's choice touches nobody's memory.
        let pages = unsafe {
            mmap_anonymous(ptr::null_mut(), mapped, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)?
        };
        let start = NonNull::new(pages.cast::<u8>()).ok_or_else(|| io::Error::other("no memory"))?;
        let secret = Self { start, mapped, used: value.len() };
        // SAFETY: the mapping made above, all of it, which nothing else refers to.
        unsafe { madvise(pages, mapped, Advice::LinuxDontDump)? };
        // SAFETY: as above.
        if let Err(error) = unsafe { mlock(pages, mapped) } {
            // A limit on locked memory. Whoever can read the swap device is root.
            tracing::debug!(%error, "a secret's memory could not be locked");
        }
        // SAFETY: the mapping is writable and at least as long as `value`; the two cannot overlap, since
        // the mapping is new.
        unsafe { ptr::copy_nonoverlapping(value.as_ptr(), start.as_ptr(), value.len()) };
        Ok(secret)
    }

    /// The value. It must not be copied to where it stays.
    #[allow(unsafe_code, reason = "see `new`")]
    pub(crate) fn expose(&self) -> &[u8] {
        // SAFETY: the mapping lives as long as `self`, holds `used` bytes that were written in `new`, and
        // is written again in `drop` alone.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.used) }
    }
}

impl Drop for Secret {
    #[allow(unsafe_code, reason = "see `new`")]
    fn drop(&mut self) {
        // SAFETY: as in `expose`; nobody else refers to the bytes any more.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.used) }.zeroize();
        // SAFETY: the mapping made in `new`, all of it; it is not used after this.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.mapped) };
    }
}

// SAFETY: the mapping belongs to this value alone, and shared references only read it.
#[allow(unsafe_code)]
unsafe impl Send for Secret {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The flags of the mapping that holds `address`, from /proc/self/smaps.
    fn flags(address: usize) -> String {
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut within = false;
        for line in smaps.lines() {
            if let Some((range, _)) = line.split_once(' ')
                && let Some((from, to)) = range.split_once('-')
                && let (Ok(from), Ok(to)) = (usize::from_str_radix(from, 16), usize::from_str_radix(to, 16))
            {
                within = (from..to).contains(&address);
            }
            if within && let Some(flags) = line.strip_prefix("VmFlags: ") {
                return flags.to_owned();
            }
        }
        String::new()
    }

    #[test]
    fn it_is_kept_out_of_dumps_and_out_of_debug_output() {
        let secret = Secret::new(b"hunter2").unwrap();
        assert_eq!(secret.expose(), b"hunter2");
        let flags = flags(secret.start.as_ptr() as usize);
        assert!(flags.split(' ').any(|flag| flag == "dd"), "{flags}");
        assert_eq!(format!("{secret:?}"), "Secret(..)");
    }

    #[test]
    fn any_length_up_to_the_limit() {
        for length in [0, 1, PAGE - 1, PAGE, PAGE + 1, MAX_SECRET] {
            let value = vec![b'x'; length];
            assert_eq!(Secret::new(&value).unwrap().expose(), value);
        }
        assert!(Secret::new(&vec![0; MAX_SECRET + 1]).is_err());
    }
}
