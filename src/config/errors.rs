//! The error policies: `[errors]`, and `[errors.SERVICE]` for what one service has different.

use std::collections::BTreeMap;

use engram_pipeline::errors::{Action, ErrorPolicy};
use serde::Deserialize;

use crate::values::duration_ms;
use crate::wire;

const IN_PLACE_MAX: u32 = 1_000;
const ATTEMPTS_MAX: u32 = 1_000;
/// Of any delay: 7 days.
const BACKOFF_MS_MAX: i64 = 7 * 24 * 60 * 60 * 1_000;

/// What services do with records that they cannot process.
#[derive(Debug, Default, Deserialize)]
#[serde(try_from = "toml::Table")]
pub struct Errors {
    all: Settings,
    services: BTreeMap<String, Settings>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    on_reject: Option<String>,
    on_unavailable: Option<String>,
    in_place_max: Option<u32>,
    attempts_max: Option<u32>,
    backoff: Option<String>,
    backoff_max: Option<String>,
}

impl TryFrom<toml::Table> for Errors {
    type Error = String;

    fn try_from(table: toml::Table) -> Result<Self, Self::Error> {
        let (services, all): (toml::Table, toml::Table) = table.into_iter().partition(|(_, value)| value.is_table());
        // Its message alone: whole, such an error goes on in a second line.
        let plain = |error: toml::de::Error| error.message().to_owned();
        let all = all.try_into().map_err(plain)?;
        Ok(Self { all, services: toml::Value::Table(services).try_into().map_err(plain)? })
    }
}

impl Errors {
    /// The policy of a service.
    pub fn policy(&self, service: &str) -> anyhow::Result<ErrorPolicy> {
        let mut policy = ErrorPolicy::default();
        self.all.apply(&mut policy, "errors")?;
        if let Some(settings) = self.services.get(service) {
            settings.apply(&mut policy, &format!("errors.{service}"))?;
        }
        anyhow::ensure!(
            policy.backoff_ms <= policy.backoff_ms_max,
            "errors.backoff is longer than errors.backoff_max for service {service}"
        );
        Ok(policy)
    }

    pub fn check(&self) -> anyhow::Result<()> {
        for name in self.services.keys() {
            wire::stores(name).map_err(|error| anyhow::anyhow!("[errors.{name}]: {error}"))?;
        }
        wire::SERVICES.iter().try_for_each(|service| self.policy(service).map(drop))
    }
}

impl Settings {
    fn apply(&self, policy: &mut ErrorPolicy, at: &str) -> anyhow::Result<()> {
        let action = |name: &str, text: &str| match text {
            "dead-letter" => Ok(Action::DeadLetter),
            "retry" => Ok(Action::Retry),
            "stop" => Ok(Action::Stop),
            other => {
                let wait = if name == "on_unavailable" { "wait, " } else { "" };
                anyhow::bail!("{at}.{name} is {other:?}: it must be {wait}dead-letter, retry or stop")
            }
        };
        if let Some(text) = &self.on_reject {
            policy.on_reject = action("on_reject", text)?;
        }
        match self.on_unavailable.as_deref() {
            None => {}
            Some("wait") => policy.on_unavailable = None,
            Some(text) => policy.on_unavailable = Some(action("on_unavailable", text)?),
        }
        for (name, value, max, set) in [
            ("in_place_max", self.in_place_max, IN_PLACE_MAX, &mut policy.in_place_max),
            ("attempts_max", self.attempts_max, ATTEMPTS_MAX, &mut policy.attempts_max),
        ] {
            let Some(value) = value else { continue };
            anyhow::ensure!((1..=max).contains(&value), "{at}.{name} is {value}: it must be 1 to {max}");
            *set = value;
        }
        for (name, value, set) in [
            ("backoff", &self.backoff, &mut policy.backoff_ms),
            ("backoff_max", &self.backoff_max, &mut policy.backoff_ms_max),
        ] {
            let Some(text) = value else { continue };
            let ms = duration_ms(text).map_err(|reason| anyhow::anyhow!("{at}.{name}: {reason}"))?;
            anyhow::ensure!((1..=BACKOFF_MS_MAX).contains(&ms), "{at}.{name} is {text}: it must be 1ms to 7d");
            *set = ms;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn a_service_has_its_own_settings_and_those_of_all() {
        let text = "[errors]\non_reject = \"retry\"\nbackoff = \"2s\"\n[errors.activity]\non_reject = \"stop\"\non_unavailable = \"retry\"\n";
        let config: Config = toml::from_str(text).expect("valid");
        let policy = config.errors.policy("activity").expect("valid");
        assert_eq!((policy.on_reject, policy.on_unavailable), (Action::Stop, Some(Action::Retry)));
        let other = config.errors.policy("other").expect("valid");
        assert_eq!((other.on_reject, other.on_unavailable, other.backoff_ms), (Action::Retry, None, 2_000));
    }

    #[test]
    fn what_cannot_be_is_refused_in_one_line() {
        for (text, reason) in [
            ("on_rejekt = \"stop\"", "on_rejekt"),
            ("on_reject = \"wait\"", "errors.on_reject is \"wait\""),
            ("on_unavailable = \"later\"", "wait, dead-letter, retry or stop"),
            ("attempts_max = 0", "errors.attempts_max is 0"),
            ("attempts_max = -1", "-1"),
            ("in_place_max = 5000", "in_place_max"),
            ("backoff = \"0s\"", "1ms to 7d"),
            ("backoff = \"soon\"", "not a duration"),
            ("backoff = \"10m\"", "longer than"),
            ("[errors.grph]", "there is no service \"grph\""),
            ("[errors.activity]\non_reject = 1", "string"),
            ("[errors.activity]\nattempts = 1", "attempts"),
        ] {
            let config =
                toml::from_str::<Config>(&format!("[errors]\n{text}")).map_err(|error| error.message().to_owned());
            let outcome = config.and_then(|config| config.errors.check().map_err(|error| format!("{error:#}")));
            let said = outcome.expect_err(text);
            assert!(said.contains(reason) && !said.contains('\n'), "{text}: {said}");
        }
    }
}
