//! The operator's side: finds the daemon of a NIC and asks it.

use std::fmt::Write;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};

use super::{Failure, Listed, MAX_REPLY, Params, place, read_line, write_line};
use crate::view::{Link, View};

/// How long a daemon may take: others may be asking too.
const PATIENCE: Duration = Duration::from_secs(10);

/// A NIC of a running daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    control: PathBuf,
    nic: Listed,
}

/// What `nic-emu-cli inspect` prints about the NIC that `name` means: for people, or as JSON. Without a name, which
/// NICs there are.
///
/// `control` is the control socket of the daemon to ask; without it, all daemons of the usual places are asked.
///
/// # Errors
///
/// One sentence: there is no such NIC, more than one, or no daemon that answers.
pub fn inspect(name: Option<&str>, control: Option<&Path>, json: bool) -> Result<String> {
    let nics = gather(control)?;
    let Some(name) = name else {
        return list(&nics, json);
    };
    let found = choose(&nics, name)?;
    let params = Params {
        nic: Some(found.nic.name.clone()),
        up: None,
    };
    let result = ask(&found.control, "inspect", &params)?;
    Ok(match json {
        true => serde_json::to_string_pretty(&result)? + "\n",
        false => {
            let view: View = serde_json::from_value(result).context(OTHER_VERSION)?;
            view.to_string()
        }
    })
}

/// Takes the link of the NIC that `name` means up or down; returns a sentence on how it is now.
///
/// # Errors
///
/// As those of [`inspect`].
pub fn set_link(name: &str, up: bool, control: Option<&Path>) -> Result<String> {
    let nics = gather(control)?;
    let found = choose(&nics, name)?;
    let params = Params {
        nic: Some(found.nic.name.clone()),
        up: Some(up),
    };
    let result = ask(&found.control, "link", &params)?;
    let link: Link = serde_json::from_value(result).context(OTHER_VERSION)?;
    let name = &found.nic.name;
    Ok(match (link.operator, link.cable) {
        (true, true) => format!("{name}: the link may be up\n"),
        (true, false) => format!("{name}: the link may be up, once the network's side is\n"),
        (false, _) => format!("{name}: the link is down\n"),
    })
}

const OTHER_VERSION: &str = "the daemon is of another version than this program";

/// The NICs of this daemon, or of all that answer.
fn gather(control: Option<&Path>) -> Result<Vec<Found>> {
    let list = |control: &Path| -> Result<Vec<Found>> {
        let nics: Vec<Listed> = serde_json::from_value(ask(control, "list", &Params::default())?)
            .context(OTHER_VERSION)?;
        let found = |nic| Found {
            control: control.to_owned(),
            nic,
        };
        Ok(nics.into_iter().map(found).collect())
    };
    if let Some(control) = control {
        return list(control);
    }
    let folders = place::folders();
    let mut nics = Vec::new();
    let mut mute = String::new();
    for (path, _) in folders.iter().flat_map(|folder| place::sockets(folder)) {
        match list(&path) {
            Ok(found) => nics.extend(found),
            // Left behind by a daemon that was killed, or it has ended meanwhile.
            Err(error) if is_dead(&error) => {}
            Err(error) => {
                let _ = write!(mute, "; {error:#}");
            }
        }
    }
    if nics.is_empty() {
        let folders: Vec<_> = folders
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        let folders = folders.join(" or ");
        bail!(
            "no daemon answers whose control socket is in {folders}: start nic-emu-cli serve, or give --control PATH as it \
             was given to it{mute}"
        );
    }
    Ok(nics)
}

fn is_dead(error: &anyhow::Error) -> bool {
    let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
    matches!(
        kind,
        Some(io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound)
    )
}

/// The one NIC that `name` means: by its name or the path of its socket, else by the file name of that, else by what
/// that is without `.sock`.
fn choose<'n>(nics: &'n [Found], name: &str) -> Result<&'n Found> {
    let path = std::path::absolute(name).ok();
    let file = |found: &Found| found.nic.name.rsplit('/').next().map(str::to_owned);
    let ways: [&dyn Fn(&Found) -> bool; 3] = [
        &|found| found.nic.name == name || path.as_deref() == Some(Path::new(&found.nic.name)),
        &|found| file(found).as_deref() == Some(name),
        &|found| file(found).is_some_and(|file| file.strip_suffix(".sock") == Some(name)),
    ];
    for way in ways {
        let fit: Vec<_> = nics.iter().filter(|found| way(found)).collect();
        match fit[..] {
            [] => {}
            [one] => return Ok(one),
            _ => bail!(
                "{name} may mean {}: give the whole name, or --control with it",
                names(fit)
            ),
        }
    }
    Err(anyhow!(
        "there is no NIC {name}; there is {}",
        names(nics.iter().collect())
    ))
}

/// The NICs with the daemons they belong to, in a sentence; not all of a crowd.
fn names(mut nics: Vec<&Found>) -> String {
    const SOME: usize = 8;
    nics.sort_by(|a, b| a.nic.name.cmp(&b.nic.name));
    let name =
        |found: &&Found| format!("{} (--control {})", found.nic.name, found.control.display());
    let mut text = nics
        .iter()
        .take(SOME)
        .map(name)
        .collect::<Vec<_>>()
        .join(", ");
    if nics.len() > SOME {
        let _ = write!(text, " and {} more", nics.len() - SOME);
    }
    text
}

fn list(nics: &[Found], json: bool) -> Result<String> {
    if json {
        let one = |found: &Found| json!({ "name": found.nic.name, "mac": found.nic.mac, "control": found.control });
        let all: Vec<Value> = nics.iter().map(one).collect();
        return Ok(serde_json::to_string_pretty(&all)? + "\n");
    }
    let line = |found: &Found| {
        format!(
            "{} {} {}\n",
            found.nic.name,
            found.nic.mac,
            found.control.display()
        )
    };
    Ok(nics.iter().map(line).collect())
}

/// Asks one daemon one thing.
fn ask(control: &Path, method: &str, params: &Params) -> Result<Value> {
    let deadline = Instant::now() + PATIENCE;
    let line = || -> io::Result<_> {
        let mut stream = place::connect(control)?;
        let request = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        write_line(&mut stream, &request.to_string(), deadline)?;
        read_line(&mut stream, &mut Vec::new(), MAX_REPLY, deadline)
    };
    let who = || format!("the daemon at {} does not answer", control.display());
    let line = line().with_context(who)?;
    let line = line
        .ok_or_else(|| anyhow!("it has hung up"))
        .with_context(who)?;
    let mut reply: Value = serde_json::from_slice(&line).context(OTHER_VERSION)?;
    if let Some(failure) = reply.get_mut("error").map(Value::take) {
        let failure: Failure = serde_json::from_value(failure).context(OTHER_VERSION)?;
        bail!("{}", failure.message);
    }
    reply
        .get_mut("result")
        .map(Value::take)
        .context(OTHER_VERSION)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nics(names: &[&str]) -> Vec<Found> {
        let found = |(number, name): (usize, &&str)| Found {
            control: format!("/run/nic-emu/nic-emu-cli.{number}.ctl").into(),
            nic: Listed {
                name: name.to_string(),
                mac: "52:54:00:00:00:01".into(),
            },
        };
        names.iter().enumerate().map(found).collect()
    }

    #[test]
    fn a_name_may_be_short_as_long_as_it_means_one_nic() {
        let nics = nics(&[
            "/run/a/nic0.sock",
            "/run/b/nic0.sock",
            "/run/b/nic1.sock",
            "fd 3",
            "/x/nic1",
        ]);
        let chosen = |name| choose(&nics, name).map(|found| found.nic.name.as_str());
        assert_eq!(chosen("/run/a/nic0.sock").unwrap(), "/run/a/nic0.sock");
        assert_eq!(chosen("nic1.sock").unwrap(), "/run/b/nic1.sock");
        assert_eq!(
            chosen("nic1").unwrap(),
            "/x/nic1",
            "the name itself comes first"
        );
        assert_eq!(chosen("fd 3").unwrap(), "fd 3");
        for name in ["nic0", "nic0.sock"] {
            let error = chosen(name).unwrap_err().to_string();
            assert!(
                error.contains("/run/a/nic0.sock") && error.contains("nic-emu-cli.1.ctl"),
                "{error}"
            );
            assert!(
                !error.contains("nic1.sock") && !error.contains('\n'),
                "{error}"
            );
        }
        let error = chosen("nic7").unwrap_err().to_string();
        assert!(
            error.contains("no NIC nic7") && error.contains("fd 3"),
            "{error}"
        );
        assert!(chosen("").is_err());
    }

    #[test]
    fn a_crowd_is_not_listed_whole() {
        let many: Vec<_> = (0..100).map(|n| format!("/run/{n}.sock")).collect();
        let many = nics(&many.iter().map(String::as_str).collect::<Vec<_>>());
        let error = choose(&many, "x").unwrap_err().to_string();
        assert!(error.ends_with("and 92 more"), "{error}");
    }
}
