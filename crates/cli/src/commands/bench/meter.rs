//! What the operating system counts: CPU time, resident memory, energy, and how busy others keep the machine. Each says
//! "not known" where the counter cannot be read; none is estimated.

use core::time::Duration;
use std::path::{Path, PathBuf};

/// How far this process's resident memory rises above what it was at the start.
pub(super) struct PeakMemory {
    before: u64,
}

impl PeakMemory {
    /// Resets the kernel's high-water mark. `None` where it does not allow that.
    pub(super) fn start() -> Option<Self> {
        std::fs::write("/proc/self/clear_refs", "5").ok()?;
        Some(Self { before: status("VmRSS")? })
    }

    /// Bytes above the start, at the highest.
    pub(super) fn rise(&self) -> Option<u64> {
        Some(status("VmHWM")?.saturating_sub(self.before))
    }
}

/// A line of `/proc/self/status` that counts KiB, in bytes.
fn status(name: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// The machine's energy counters: whole processor packages, whoever uses them.
pub(super) struct Energy {
    /// Folder of each counter and the value after which it starts anew, in microjoules.
    zones: Vec<(PathBuf, u64)>,
}

impl Energy {
    /// Finds the packages' counters. `None` where there is none or it may not be read, which is the default for users.
    pub(super) fn open() -> Option<Self> {
        Self::in_folder(Path::new("/sys/class/powercap"))
    }

    fn in_folder(folder: &Path) -> Option<Self> {
        let entries = std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
        // A package is `intel-rapl:N` (AMD's too); `intel-rapl:N:M` are its parts.
        let package = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("intel-rapl:") && name.matches(':').count() == 1
        };
        let zones: Vec<_> = entries
            .filter(package)
            .filter_map(|path| {
                number(&path.join("energy_uj"))?;
                let range = number(&path.join("max_energy_range_uj")).unwrap_or(u64::MAX);
                Some((path, range))
            })
            .collect();
        (!zones.is_empty()).then_some(Self { zones })
    }

    /// Every counter now.
    pub(super) fn read(&self) -> Vec<u64> {
        self.zones.iter().map(|(path, _)| number(&path.join("energy_uj")).unwrap_or(0)).collect()
    }

    /// Joules from one reading to a later one.
    pub(super) fn joules(&self, from: &[u64], to: &[u64]) -> f64 {
        let zones = self.zones.iter().zip(from.iter().zip(to));
        let spent: u64 = zones
            .map(|((_, range), (from, to))| if to >= from { to - from } else { range.saturating_sub(*from) + to })
            .sum();
        spent as f64 / 1e6
    }
}

fn number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// CPU time the whole machine has spent on programs, and what it could have spent, in seconds since it started.
#[derive(Clone, Copy)]
pub(super) struct Machine {
    busy: f64,
    all: f64,
}

impl Machine {
    /// Now.
    pub(super) fn now() -> Option<Self> {
        // `/proc/stat` counts in hundredths of a second: user, nice, system, idle, iowait, irq, softirq, steal.
        let text = std::fs::read_to_string("/proc/stat").ok()?;
        let fields: Vec<f64> = text.lines().next()?.split_whitespace().skip(1).map_while(|n| n.parse().ok()).collect();
        let all: f64 = fields.iter().take(8).sum();
        let idle = fields.get(3)? + fields.get(4)?;
        Some(Self { busy: (all - idle) / 100.0, all: all / 100.0 })
    }

    /// Share of the machine that others used since `earlier`, given what we used.
    pub(super) fn others(self, earlier: Self, ours: Duration) -> f64 {
        let busy = self.busy - earlier.busy - ours.as_secs_f64();
        (busy / (self.all - earlier.all).max(f64::MIN_POSITIVE)).clamp(0.0, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_packages_are_summed_and_may_start_anew() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |zone: &str, file: &str, value: &str| {
            let zone = folder.path().join(zone);
            std::fs::create_dir_all(&zone).expect("a folder");
            std::fs::write(zone.join(file), value).expect("written");
        };
        assert!(Energy::in_folder(folder.path()).is_none(), "no counter");
        for (zone, energy) in [("intel-rapl:0", "900000\n"), ("intel-rapl:1", "100\n"), ("intel-rapl:0:0", "7\n")] {
            write(zone, "energy_uj", energy);
            write(zone, "max_energy_range_uj", "1000000\n");
        }
        let energy = Energy::in_folder(folder.path()).expect("two packages");
        let before = energy.read();
        write("intel-rapl:0", "energy_uj", "100000");
        write("intel-rapl:1", "energy_uj", "50100");
        assert!((energy.joules(&before, &energy.read()) - 0.25).abs() < 1e-9, "0.2 J past the end, 0.05 J");
    }

    #[test]
    fn resident_memory_rises_with_what_is_touched() {
        let Some(peak) = PeakMemory::start() else { return };
        let touched = core::hint::black_box(vec![1u8; 32 << 20]);
        assert!(peak.rise().expect("readable") >= 24 << 20, "{} bytes were touched", touched.len());
    }

    #[test]
    fn what_we_used_is_not_others() {
        let (earlier, later) = (Machine { busy: 10.0, all: 100.0 }, Machine { busy: 14.0, all: 110.0 });
        assert!((later.others(earlier, Duration::from_secs(3)) - 0.1).abs() < 1e-9);
        assert_eq!(later.others(earlier, Duration::from_secs(9)), 0.0);
    }
}
