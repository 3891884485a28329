//! A private apt: its own lists, cache and (empty) package status, so that the system is neither read nor changed.
//!
//! apt itself checks signatures and checksums, resumes broken downloads and knows the machine's proxies; only the
//! mirror's address and the keyring are taken from the system.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::kernel::Suite;
use crate::{Error, Lab, Process, Result};

/// Package lists older than this are fetched again before they are used.
const LISTS_FRESH: Duration = Duration::from_secs(24 * 3600);
const KEYRINGS: [&str; 2] = [
    "/usr/share/keyrings/debian-archive-keyring.gpg",
    "/usr/share/keyrings/debian-archive-keyring.pgp",
];

/// The private apt below a lab's folder. Use it with the lab's lock held.
pub(crate) struct Apt {
    dir: PathBuf,
    debs: PathBuf,
}

/// A package to fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
}

impl Apt {
    /// Sets the private state up and fetches the package lists if they are missing or old.
    pub(crate) fn open(lab: &Lab) -> Result<Self> {
        let apt = Self {
            dir: lab.dir().join("apt"),
            debs: lab.dir().join("debs"),
        };
        let disk = |e| Error::write(lab.dir(), format!("write below {}", apt.dir.display()))(e);
        for folder in ["state/lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(apt.dir.join(folder)).map_err(disk)?;
        }
        fs::write(apt.dir.join("status"), "").map_err(disk)?;
        fs::write(apt.dir.join("apt.conf"), apt.config()).map_err(disk)?;
        let keyring = KEYRINGS
            .iter()
            .find(|k| Path::new(k).exists())
            .ok_or(Error::NoKeyring)?;
        let sources = sources_list(&mirror()?, keyring);

        let (list, stamp) = (apt.dir.join("sources.list"), apt.dir.join("updated"));
        let fresh = fs::metadata(&stamp)
            .and_then(|m| m.modified())
            .is_ok_and(|t| t.elapsed().is_ok_and(|age| age < LISTS_FRESH));
        if !fresh || fs::read_to_string(&list).ok().as_deref() != Some(&sources) {
            let _ = fs::remove_file(&stamp);
            fs::write(&list, sources).map_err(disk)?;
            apt.run("fetch the package lists", &apt.dir, &["update"])?;
            fs::write(&stamp, "").map_err(disk)?;
        }
        Ok(apt)
    }

    /// Downloads the named packages of a suite with everything they depend on; returns the files.
    pub(crate) fn fetch_with_dependencies(
        &self,
        what: &str,
        suite: Suite,
        names: &[&str],
    ) -> Result<Vec<PathBuf>> {
        let packages = self.would_install(suite, names)?;
        let into = self.deb_folder(what)?;
        let archives = format!("Dir::Cache::archives={}/", into.display());
        let mut args = vec![
            "-y",
            "--download-only",
            "-o",
            &archives,
            "-t",
            suite.name(),
            "install",
        ];
        args.extend(names);
        self.run(&format!("fetch {what}"), &into, &args)?;
        debs_of(&packages, &into)
    }

    /// Downloads exactly these packages; returns the files.
    pub(crate) fn fetch_exactly(&self, what: &str, packages: &[Package]) -> Result<Vec<PathBuf>> {
        let into = self.deb_folder(what)?;
        let wanted: Vec<String> = packages
            .iter()
            .map(|p| format!("{}={}", p.name, p.version))
            .collect();
        let mut args = vec!["download"];
        args.extend(wanted.iter().map(String::as_str));
        self.run(&format!("fetch {what}"), &into, &args)?;
        debs_of(packages, &into)
    }

    /// Deletes what `fetch_*` downloaded under this name, after it was unpacked.
    pub(crate) fn forget(&self, what: &str) -> Result<()> {
        crate::store::remove_all(&self.debs.join(what))
    }

    /// What an installation of `names` from `suite` on an empty machine would install.
    pub(crate) fn would_install(&self, suite: Suite, names: &[&str]) -> Result<Vec<Package>> {
        let mut args = vec!["--simulate", "-t", suite.name(), "install"];
        args.extend(names);
        let printed = self.run("resolve packages", &self.dir, &args)?;
        Ok(parse_simulation(&printed))
    }

    fn deb_folder(&self, what: &str) -> Result<PathBuf> {
        let into = self.debs.join(what);
        fs::create_dir_all(into.join("partial"))
            .map_err(Error::write(&self.dir, format!("make {}", into.display())))?;
        Ok(into)
    }

    /// Runs apt-get in `cwd`, showing its progress as a bar titled `what`; returns the lines it printed.
    fn run(&self, what: &str, cwd: &Path, args: &[&str]) -> Result<String> {
        let mut apt = Command::new("apt-get");
        apt.arg("-c")
            .arg(self.dir.join("apt.conf"))
            .args(["-qq", "-o", "APT::Status-Fd=1"])
            .args(args)
            .current_dir(cwd)
            .env("LC_ALL", "C")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // An apt that outlives us would keep its lock from the next run.
        let mut process = Process::spawn(apt).map_err(|e| match e {
            Error::Io { source, .. } => missing_tool("apt-get", source),
            other => other,
        })?;
        let child = process.child();
        let stderr = child.stderr.take().map(|mut pipe| {
            std::thread::spawn(move || {
                let mut text = Vec::new();
                let _ = pipe.read_to_end(&mut text);
                String::from_utf8_lossy(&text).into_owned()
            })
        });
        let bar = progress(what);
        let mut printed = String::new();
        for line in child
            .stdout
            .take()
            .into_iter()
            .flat_map(|out| BufReader::new(out).lines().map_while(|l| l.ok()))
        {
            match parse_progress(&line) {
                Some((percent, text)) => {
                    bar.set_position(percent);
                    bar.set_message(text.to_owned());
                }
                None => {
                    printed.push_str(&line);
                    printed.push('\n');
                }
            }
        }
        let status = child.wait().map_err(Error::io("wait for apt-get"))?;
        bar.finish_and_clear();
        let stderr = stderr.and_then(|t| t.join().ok()).unwrap_or_default();
        // An `update` that reached nothing still exits with 0: old lists would do for apt.
        let failed = !status.success() || stderr.lines().any(|l| l.contains("Failed to fetch"));
        if failed {
            Err(self.judge(what, &stderr))
        } else {
            Ok(printed)
        }
    }

    /// Turns apt's complaints into the one sentence that fits.
    fn judge(&self, what: &str, stderr: &str) -> Error {
        let about = |needles: &[&str]| {
            stderr
                .lines()
                .find(|l| needles.iter().any(|n| l.contains(n)))
                .map(|l| {
                    let line = l
                        .trim_start_matches(['E', 'W'])
                        .trim_start_matches(':')
                        .trim();
                    line.split_whitespace().collect::<Vec<_>>().join(" ")
                })
        };
        if about(&["No space left", "enough free space"]).is_some() {
            return Error::DiskFull(self.dir.clone());
        }
        if let Some(line) = about(&[
            "Could not resolve",
            "Could not connect",
            "onnection",
            "timed out",
            "nreachable",
        ]) {
            return Error::Unreachable(line);
        }
        if let Some(line) = about(&[
            "GPG error",
            "NO_PUBKEY",
            "Hash Sum mismatch",
            "unexpected size",
            "cannot be auth",
        ]) {
            return Error::Signature(line);
        }
        if let Some(line) = about(&["Failed to fetch"]) {
            return Error::Unreachable(line);
        }
        let detail = about(&["E:"]).unwrap_or_else(|| "it gave no reason".into());
        Error::Apt {
            what: what.into(),
            detail,
        }
    }

    fn config(&self) -> String {
        let dir = self.dir.display();
        // The machine's hooks (such as emptying its own cache after an update) are no business of this apt.
        format!(
            r#"#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear APT::Architectures;
APT::Architecture "amd64";
APT::Architectures "amd64";
APT::Sandbox::User "root";
APT::Install-Recommends "false";
APT::Get::AllowUnauthenticated "false";
Acquire::AllowInsecureRepositories "false";
Acquire::Languages "none";
Acquire::GzipIndexes "true";
Acquire::Retries "3";
Dir::State "{dir}/state/";
Dir::State::status "{dir}/status";
Dir::Cache "{dir}/cache/";
Dir::Etc::sourcelist "{dir}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
"#
        )
    }
}

/// `NotFound` on starting a Debian base tool means that this is no Debian.
pub(crate) fn missing_tool(name: &str, e: std::io::Error) -> Error {
    match e.kind() {
        std::io::ErrorKind::NotFound => Error::NoApt(name.into()),
        _ => Error::Io {
            what: format!("start {name}"),
            source: e,
        },
    }
}

/// The Debian mirror that the machine itself uses.
fn mirror() -> Result<String> {
    if let Some(uri) = std::env::var("NIC_EMU_LAB_MIRROR")
        .ok()
        .filter(|v| !v.is_empty())
    {
        return Ok(uri);
    }
    let out = Command::new("apt-get")
        .args([
            "indextargets",
            "--format",
            "$(RELEASE)|$(COMPONENT)|$(REPO_URI)",
        ])
        .output()
        .map_err(|e| missing_tool("apt-get", e))?;
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    pick_mirror(&String::from_utf8_lossy(&out.stdout), &release).ok_or(Error::NoMirror)
}

/// Picks from `apt-get indextargets` (lines of release, component, URI) the archive that serves the release which
/// `/etc/os-release` names. On testing and unstable, which name none, one that is called `.../debian/` must do.
fn pick_mirror(targets: &str, os_release: &str) -> Option<String> {
    let value = |key: &str| {
        os_release
            .lines()
            .find_map(|l| l.strip_prefix(key)?.strip_prefix('='))
            .map(|v| v.trim_matches('"'))
    };
    let codename = value("VERSION_CODENAME").filter(|_| value("ID") == Some("debian"));
    let mut candidates = targets.lines().filter_map(|line| {
        let mut fields = line.splitn(3, '|');
        let (release, component, uri) = (fields.next()?, fields.next()?, fields.next()?);
        (component == "main" && !uri.starts_with("cdrom:")).then_some((release, uri))
    });
    let mut again = candidates.clone();
    let by_release = candidates.find(|(release, _)| Some(*release) == codename);
    let by_name = || again.find(|(_, uri)| uri.trim_end_matches('/').ends_with("/debian"));
    by_release.or_else(by_name).map(|(_, uri)| uri.to_owned())
}

fn sources_list(mirror: &str, keyring: &str) -> String {
    Suite::ALL
        .map(|suite| {
            format!(
                "deb [signed-by={keyring} arch=amd64 target=Packages] {mirror} {} main\n",
                suite.name()
            )
        })
        .concat()
}

/// `dlstatus:FILE:PERCENT:TEXT` of `APT::Status-Fd`.
fn parse_progress(line: &str) -> Option<(u64, &str)> {
    let mut fields = line.strip_prefix("dlstatus:")?.splitn(3, ':');
    let percent: f64 = fields.nth(1)?.parse().ok()?;
    Some((percent as u64, fields.next()?))
}

/// `Inst NAME (VERSION ORIGIN [ARCH])` lines of a simulated installation.
fn parse_simulation(printed: &str) -> Vec<Package> {
    let package = |line: &str| {
        let mut words = line.strip_prefix("Inst ")?.split_whitespace();
        let name = words.next()?.to_owned();
        let version = words.find_map(|w| w.strip_prefix('('))?.to_owned();
        Some(Package { name, version })
    };
    printed.lines().filter_map(package).collect()
}

/// The files of these packages in `dir`, where others may lie of an earlier, interrupted download.
fn debs_of(packages: &[Package], dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).map_err(Error::io(format!("read {}", dir.display())))?;
    let names: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    let file_of = |package: &Package| {
        let start = format!("{}_{}_", package.name, package.version.replace(':', "%3a"));
        let is_it = |p: &&PathBuf| {
            let name = p.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            name.starts_with(&start) && name.ends_with(".deb")
        };
        names
            .iter()
            .find(is_it)
            .cloned()
            .ok_or_else(|| Error::NotInPackage {
                what: format!("the file of {} {}", package.name, package.version),
                set: "this download".into(),
                dir: dir.to_owned(),
            })
    };
    packages.iter().map(file_of).collect()
}

fn progress(what: &str) -> ProgressBar {
    let bar = ProgressBar::new(100);
    if let Ok(style) = ProgressStyle::with_template("lab: {prefix} [{bar:30}] {percent:>3}% {msg}")
    {
        bar.set_style(style);
    }
    bar.set_prefix(what.to_owned());
    if bar.is_hidden() && what.starts_with("fetch") {
        eprintln!("lab: {what}");
    }
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGETS: &str = "nodistro|main|https://deb.example.com/node_20.x/\n\
        bookworm-security|main|http://mirror.example.org/debian-security/\n\
        bookworm|contrib|http://other.example.org/debian/\n\
        bookworm|main|http://mirror.example.org/debian/\n\
        bookworm-updates|main|http://mirror.example.org/debian/\n";

    #[test]
    fn the_mirror_is_the_one_that_serves_the_hosts_release() {
        let os = "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_CODENAME=bookworm\nID=debian\n";
        assert_eq!(
            pick_mirror(TARGETS, os).as_deref(),
            Some("http://mirror.example.org/debian/")
        );
    }

    #[test]
    fn a_cdrom_is_no_mirror_and_testing_takes_the_archive_by_name() {
        let targets =
            "forky|main|cdrom:[Debian]/\ntesting|main|http://mirror.example.org/debian/\n";
        let os = "VERSION_CODENAME=forky\nID=debian\n";
        assert_eq!(
            pick_mirror(targets, os).as_deref(),
            Some("http://mirror.example.org/debian/")
        );
    }

    #[test]
    fn a_machine_without_a_debian_archive_has_no_mirror() {
        let os = "VERSION_CODENAME=noble\nID=ubuntu\n";
        assert_eq!(
            pick_mirror("noble|main|http://archive.example.com/ubuntu/\n", os),
            None
        );
        assert_eq!(pick_mirror("", ""), None);
        assert_eq!(pick_mirror("garbage\n||\n", os), None);
    }

    #[test]
    fn sources_name_every_suite_with_its_keyring() {
        let list = sources_list("http://m.example/debian/", "/k.gpg");
        assert_eq!(list.lines().count(), 3);
        assert!(
            list.lines()
                .all(|l| l.starts_with("deb [signed-by=/k.gpg ") && l.ends_with(" main"))
        );
        assert!(list.contains(" trixie-backports "));
    }

    #[test]
    fn progress_lines_are_told_from_output() {
        assert_eq!(
            parse_progress("dlstatus:7:77.8681:Retrieving file 7 of 90 (3s remaining)"),
            Some((77, "Retrieving file 7 of 90 (3s remaining)"))
        );
        assert_eq!(
            parse_progress("Inst linux-base (4.12.1 Debian:13.7/stable [all])"),
            None
        );
    }

    #[test]
    fn a_simulated_installation_names_versions() {
        let printed = "NOTE: only a simulation\nInst linux-base (4.12.1 Debian:13.7/stable [all])\n\
            Inst linux-image-6.12.107+deb13-amd64 [1.0] (6.12.107-1 Debian:13.7/stable [amd64]) []\nConf x (1 y)\n";
        let names: Vec<_> = parse_simulation(printed)
            .into_iter()
            .map(|p| (p.name, p.version))
            .collect();
        assert_eq!(
            names,
            [
                ("linux-base".into(), "4.12.1".into()),
                (
                    "linux-image-6.12.107+deb13-amd64".into(),
                    "6.12.107-1".to_owned()
                )
            ]
        );
    }

    #[test]
    fn only_the_wanted_version_of_a_package_is_taken() {
        let tmp = tempfile::tempdir().unwrap();
        for name in [
            "a_1%3a2.0-1_amd64.deb",
            "a_1%3a1.9-1_amd64.deb",
            "aa_2.0-1_amd64.deb",
            "b_3_all.deb.part",
        ] {
            fs::write(tmp.path().join(name), "").unwrap();
        }
        let package = |name: &str, version: &str| Package {
            name: name.into(),
            version: version.into(),
        };
        let found = debs_of(&[package("a", "1:2.0-1")], tmp.path()).unwrap();
        assert_eq!(found, [tmp.path().join("a_1%3a2.0-1_amd64.deb")]);
        assert!(debs_of(&[package("b", "3")], tmp.path()).is_err());
    }

    #[test]
    fn apts_complaints_become_one_sentence() {
        let apt = Apt {
            dir: "/x/apt".into(),
            debs: "/x/debs".into(),
        };
        let judge = |text| apt.judge("fetch qemu", text);
        assert!(matches!(
            judge("W: Failed to fetch http://h/InRelease  Could not resolve 'h'\nW: Some index files failed."),
            Error::Unreachable(line) if line == "Failed to fetch http://h/InRelease Could not resolve 'h'"
        ));
        assert!(matches!(
            judge("E: Failed to fetch http://h/x.deb  404  Not Found"),
            Error::Unreachable(_)
        ));
        assert!(matches!(
            judge(
                "W: GPG error: http://h trixie InRelease: NO_PUBKEY 6ED0\nE: The repository is not signed."
            ),
            Error::Signature(_)
        ));
        assert!(matches!(
            judge("E: Failed to fetch http://h/x.deb  Hash Sum mismatch"),
            Error::Signature(_)
        ));
        assert!(matches!(
            judge("E: You don't have enough free space in /x/."),
            Error::DiskFull(_)
        ));
        assert!(
            matches!(judge("E: Unable to locate package q"), Error::Apt { detail, .. } if detail.contains("q"))
        );
        assert!(matches!(judge(""), Error::Apt { .. }));
    }
}
