//! Flat `key=value,key=value` options, as QEMU's command line has them.

use std::fmt::Display;
use std::str::FromStr;

use crate::error::UsageError;

/// The options of one NIC, in the order given. Each is taken once; what is left at the end is unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys(Vec<(String, String)>);

impl Keys {
    /// Takes `text` apart at its commas; a doubled comma stands for one inside a value.
    ///
    /// # Errors
    ///
    /// A part that is not `key=value`, or a key given twice.
    pub fn parse(text: &str) -> Result<Self, UsageError> {
        let mut keys = Self::default();
        for part in split_at_single_commas(text) {
            match part.split_once('=') {
                Some((key, value)) if !key.is_empty() => keys.add(key, value)?,
                _ => {
                    return Err(UsageError(format!(
                        "{part:?} in {text:?} is not of the form key=value"
                    )));
                }
            }
        }
        Ok(keys)
    }

    /// Adds one option.
    ///
    /// # Errors
    ///
    /// The key was given already.
    pub fn add(&mut self, key: &str, value: &str) -> Result<(), UsageError> {
        if self.0.iter().any(|(known, _)| known == key) {
            return Err(UsageError(format!("{key} is given twice for the same NIC")));
        }
        self.0.push((key.to_owned(), value.to_owned()));
        Ok(())
    }

    /// Removes the value of `key`.
    pub fn take(&mut self, key: &str) -> Option<String> {
        let at = self.0.iter().position(|(known, _)| known == key)?;
        Some(self.0.remove(at).1)
    }

    /// Removes the value of `key` and parses it; `expected` says what the value has to look like.
    ///
    /// # Errors
    ///
    /// The value cannot be parsed.
    pub fn take_as<T: FromStr>(
        &mut self,
        key: &str,
        expected: impl Display,
    ) -> Result<Option<T>, UsageError> {
        let Some(text) = self.take(key) else {
            return Ok(None);
        };
        let bad = || UsageError(format!("{key}={text} is not valid: give {expected}"));
        text.parse().map(Some).map_err(|_| bad())
    }

    /// Removes the value of `key`, which is `on`, `off`, or `default` if it is not given.
    ///
    /// # Errors
    ///
    /// The value is neither.
    pub fn take_switch(&mut self, key: &str, default: bool) -> Result<bool, UsageError> {
        match self.take(key).as_deref() {
            None => Ok(default),
            Some("on") => Ok(true),
            Some("off") => Ok(false),
            Some(other) => Err(UsageError(format!(
                "{key}={other} is unknown: give on or off"
            ))),
        }
    }

    /// Ends the parsing: any option still here is one that nobody knows, or that does not go with the others.
    ///
    /// # Errors
    ///
    /// An option is left.
    pub fn finish(self, known: &str) -> Result<(), UsageError> {
        match self.0.first() {
            None => Ok(()),
            Some((key, value)) => Err(UsageError(format!(
                "{key}={value} is unknown or has no meaning here; the keys are {known}"
            ))),
        }
    }
}

fn split_at_single_commas(text: &str) -> Vec<String> {
    const COMMA: char = '\u{0}';
    let text = text.replace(",,", &COMMA.to_string());
    text.split(',')
        .map(|part| part.replace(COMMA, ","))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_doubled_comma_is_part_of_a_value() {
        let mut keys = Keys::parse("socket-path=/run/a,,b.sock,net=null").unwrap();
        assert_eq!(keys.take("socket-path").as_deref(), Some("/run/a,b.sock"));
        assert_eq!(keys.take("net").as_deref(), Some("null"));
        assert_eq!(keys.take("net"), None);
        keys.finish("").unwrap();
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        assert!(Keys::parse("net").unwrap_err().0.contains("\"net\""));
        assert!(Keys::parse("").is_err());
        assert!(Keys::parse("=x").is_err());
        assert!(
            Keys::parse("net=a,net=b")
                .unwrap_err()
                .0
                .contains("net is given twice")
        );
        let left = Keys::parse("colour=red")
            .unwrap()
            .finish("socket-path, net")
            .unwrap_err();
        assert!(left.0.contains("colour=red") && left.0.contains("socket-path, net"));
    }
}
