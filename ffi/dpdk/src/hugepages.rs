//! Finds out which memory EAL can have before it starts, because it can't be started a second time.

use std::{fs, path::Path, ptr};

/// Huge pages of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HugePages {
    /// Size of a page, bytes.
    pub size: u64,
    /// The number of pages.
    pub total: u64,
    /// The number of unused pages.
    pub free: u64,
}

const SYSFS: &str = "/sys/kernel/mm/hugepages";

/// The kernel's huge page sizes, with the free pages of each.
pub(crate) fn available() -> Vec<HugePages> {
    read(Path::new(SYSFS))
}

fn read(directory: &Path) -> Vec<HugePages> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut pages: Vec<HugePages> = entries
        .filter_map(Result::ok)
        .filter_map(|e| {
            let name = e.file_name().into_string().ok()?;
            let kilobytes: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
            let number =
                |file: &str| fs::read_to_string(e.path().join(file)).ok()?.trim().parse::<u64>().ok();
            let free = number("free_hugepages")?.saturating_sub(number("resv_hugepages").unwrap_or(0));
            Some(HugePages { size: kilobytes * 1024, total: number("nr_hugepages")?, free })
        })
        .collect();
    pages.sort_by_key(|p| p.size);
    pages
}

/// Checks that `need` bytes of huge pages exist and can be mapped; if not, returns why.
pub(crate) fn usable(need: u64) -> Result<u64, String> {
    let pages = available();
    let free: u64 = pages.iter().map(|p| p.size * p.free).sum();
    if free < need {
        return Err(missing(need, &pages));
    }
    // A control group may forbid huge pages that the kernel has, so one is tried.
    for p in pages.iter().filter(|p| p.free > 0) {
        try_one(p.size).map_err(|e| format!("a huge page of {} kB can't be had: {e}", p.size >> 10))?;
    }
    Ok(free)
}

/// Explains why `need` bytes of huge pages aren't available: what there is, and what is missing.
pub(crate) fn shortage(need: u64) -> String {
    missing(need, &available())
}

fn missing(need: u64, pages: &[HugePages]) -> String {
    let megabytes = need.div_ceil(1 << 20);
    let free: u64 = pages.iter().map(|p| p.size * p.free).sum();
    if free >= need {
        return format!("{megabytes} MB of huge pages are needed, and {} MB are free by now", free >> 20);
    }
    let missing = (need - free).div_ceil(1 << 20);
    let Some(smallest) = pages.first().filter(|p| p.size > 0) else {
        return format!("{megabytes} MB of huge pages are needed, and this kernel doesn't know any");
    };
    let (more, size) = ((need - free).div_ceil(smallest.size), smallest.size >> 10);
    format!(
        "{megabytes} MB of huge pages are needed, {} MB are free: {missing} MB are missing ({more} pages of {size} kB; \
         `echo {} > {SYSFS}/hugepages-{size}kB/nr_hugepages` reserves them)",
        free >> 20,
        smallest.total + more,
    )
}

/// Maps one huge page of `size` bytes, populates it, and unmaps it.
fn try_one(size: u64) -> std::io::Result<()> {
    let length = usize::try_from(size).map_err(std::io::Error::other)?;
    let flags = libc::MAP_PRIVATE
        | libc::MAP_ANONYMOUS
        | libc::MAP_HUGETLB
        | ((size.trailing_zeros() as libc::c_int) << libc::MAP_HUGE_SHIFT);
    // SAFETY: a fresh anonymous mapping that nothing refers to. Populating reports an error where touching the page
    // would raise a signal.
    unsafe {
        let page = libc::mmap(ptr::null_mut(), length, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
        if page == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        let populated = libc::madvise(page, length, libc::MADV_POPULATE_WRITE);
        let error = std::io::Error::last_os_error();
        libc::munmap(page, length);
        // Kernels before 5.14 don't know the advice; the mapping alone must then suffice.
        if populated == 0 || error.raw_os_error() == Some(libc::EINVAL) { Ok(()) } else { Err(error) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernel_s_directory() {
        let dir = std::env::temp_dir().join(format!("hugepages-test-{}", std::process::id()));
        for (name, total, free, reserved) in
            [("hugepages-2048kB", "12\n", "10\n", "4\n"), ("hugepages-1048576kB", "1\n", "1\n", "0\n")]
        {
            let sub = dir.join(name);
            fs::create_dir_all(&sub).unwrap();
            fs::write(sub.join("nr_hugepages"), total).unwrap();
            fs::write(sub.join("free_hugepages"), free).unwrap();
            fs::write(sub.join("resv_hugepages"), reserved).unwrap();
        }
        fs::create_dir_all(dir.join("something-else")).unwrap();
        let pages = read(&dir);
        fs::remove_dir_all(&dir).unwrap();
        let large = HugePages { size: 1 << 30, total: 1, free: 1 };
        assert_eq!(pages, [HugePages { size: 2 << 20, total: 12, free: 6 }, large]);
    }

    #[test]
    fn no_directory_means_no_pages() {
        assert!(read(Path::new("/nonexistent")).is_empty());
    }

    #[test]
    fn what_is_missing_is_said_in_bytes_and_pages() {
        let large = HugePages { size: 1 << 30, total: 0, free: 0 };
        let pages = [HugePages { size: 2 << 20, total: 80, free: 50 }, large];
        assert_eq!(
            missing(161 << 20, &pages),
            "161 MB of huge pages are needed, 100 MB are free: 61 MB are missing (31 pages of 2048 kB; \
             `echo 111 > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages` reserves them)"
        );
        assert_eq!(missing(1, &[]), "1 MB of huge pages are needed, and this kernel doesn't know any");
        assert_eq!(missing(90 << 20, &pages), "90 MB of huge pages are needed, and 100 MB are free by now");
    }

    #[test]
    fn more_than_there_is_isn_t_usable() {
        assert!(usable(u64::MAX).is_err());
    }
}
