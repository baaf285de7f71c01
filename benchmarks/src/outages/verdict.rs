//! What must hold of an outage.

use super::{Measured, Watched};
use crate::Result;

/// A process that needs the server says for this share of the outage, from its first word on, that it is not ready.
const UNREADY: f64 = 0.8;
/// One that does not need it says so for this share of the outage at most: its answer may be late by itself.
const UNCONCERNED: f64 = 0.2;

/// Fails where the result is not the oracle's, where a process held more than it may, or where health and log did not say what
/// was so; those that need the server must have said so within `notice_seconds`.
///
/// # Errors
/// What does not hold, in words.
pub(super) fn judge(m: &Measured, late: u64, notice_seconds: f64) -> Result<()> {
    let name = m.server.name();
    if m.compared.differences > 0 {
        let told = m.compared.told.join("\n");
        return Err(format!("{name}: {} differences from the oracle:\n{told}", m.compared.differences).into());
    }
    if m.compared.windows == 0 || m.compared.predictions == 0 || late == 0 {
        return Err(format!("{name}: nothing was compared: {:?}", m.compared).into());
    }
    for process in &m.processes {
        of_process(process, notice_seconds).map_err(|e| format!("{name}: {}: {e}", process.role))?;
    }
    Ok(())
}

fn of_process(p: &Watched, notice_seconds: f64) -> std::result::Result<(), String> {
    if p.peak_bytes == 0 || p.peak_bytes > p.bound_bytes {
        return Err(format!("it held {} of {} bytes", p.peak_bytes, p.bound_bytes));
    }
    if p.ready_again_s.is_none() {
        return Err(format!("it does not say that it is over: {:?}", p.log));
    }
    if !p.concerned {
        return match &p.said {
            Some(said) if p.unready > UNCONCERNED => Err(format!("it does not need it, but said `{said}`")),
            _ => Ok(()),
        };
    }
    let (Some(noticed_s), Some(said)) = (p.noticed_s, &p.said) else {
        return Err("it was ready all the time".to_owned());
    };
    if noticed_s > notice_seconds {
        return Err(format!("it said `{said}` after {noticed_s:.1} s, more than {notice_seconds} s"));
    }
    if p.unready < UNREADY {
        return Err(format!("it was ready meanwhile, though it said `{said}`"));
    }
    let ended = p.log.iter().any(|l| l.contains("is back after") || l.contains("answers again"));
    let begun = p.log.iter().any(|l| l.contains("waiting for"));
    if begun && ended {
        Ok(())
    } else {
        Err(format!("its log does not say that it began and is over: {:?}", p.log))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::Server;
    use crate::live::compare::Compared;

    fn concerned() -> Watched {
        Watched {
            role: "aggregate",
            concerned: true,
            base_bytes: 70,
            peak_bytes: 100,
            bound_bytes: 100,
            noticed_s: Some(60.0),
            said: Some("kafka: AllBrokersDown".into()),
            said_last: Some("kafka: BrokerTransportFailure".into()),
            unready: 0.8,
            ready_again_s: Some(3.0),
            log: vec![
                "WARN waiting for kafka: AllBrokersDown".into(),
                "INFO kafka is back after 120.0 s".into(),
            ],
        }
    }

    fn unconcerned() -> Watched {
        Watched {
            role: "score",
            concerned: false,
            noticed_s: None,
            said: None,
            said_last: None,
            unready: 0.0,
            log: vec![],
            ..concerned()
        }
    }

    fn measured(processes: Vec<Watched>) -> Measured {
        Measured {
            server: Server::Kafka,
            away_s: 120.0,
            readings: 1000,
            processes,
            catch_up_s: 10.0,
            all: (2000, 10),
            compared: Compared { windows: 100, predictions: 90, ..Compared::default() },
        }
    }

    #[test]
    fn an_outage_is_to_be_noticed_told_and_over() {
        let cases: &[(&str, Watched, Option<&str>)] = &[
            ("noticed in time", concerned(), None),
            (
                "noticed late",
                Watched { noticed_s: Some(60.5), ..concerned() },
                Some("after 60.5 s, more than 60 s"),
            ),
            (
                "never noticed",
                Watched { noticed_s: None, said: None, ..concerned() },
                Some("ready all the time"),
            ),
            ("ready now and then", Watched { unready: 0.79, ..concerned() }, Some("ready meanwhile")),
            (
                "not ready again",
                Watched { ready_again_s: None, ..concerned() },
                Some("not say that it is over"),
            ),
            (
                "no end in the log",
                Watched { log: concerned().log[..1].to_vec(), ..concerned() },
                Some("its log"),
            ),
            (
                "no beginning in the log",
                Watched { log: concerned().log[1..].to_vec(), ..concerned() },
                Some("its log"),
            ),
            ("more than it may", Watched { peak_bytes: 101, ..concerned() }, Some("held 101 of 100")),
            ("memory unknown", Watched { peak_bytes: 0, ..concerned() }, Some("held 0 of 100")),
            ("not its server", unconcerned(), None),
            (
                "a late answer by itself",
                Watched { said: Some("store: slow".into()), unready: 0.1, ..unconcerned() },
                None,
            ),
            (
                "complains all the same",
                Watched { said: Some("kafka".into()), unready: 0.3, ..unconcerned() },
                Some("does not need it"),
            ),
        ];
        for (name, process, wrong) in cases {
            match (judge(&measured(vec![process.clone()]), 10, 60.0), wrong) {
                (Ok(()), None) => {}
                (Err(e), Some(wrong)) if e.to_string().contains(wrong) => {}
                (other, wrong) => panic!("{name}: {other:?}, not {wrong:?}"),
            }
        }
    }

    #[test]
    fn a_result_is_to_be_compared_and_equal() {
        let fails = |m: &Measured, late| judge(m, late, 60.0).is_err();
        let good = measured(vec![concerned(), unconcerned()]);
        assert!(!fails(&good, 10));
        assert!(fails(&good, 0), "nothing was late");
        for compared in [
            Compared { differences: 1, ..good.compared.clone() },
            Compared { windows: 0, ..good.compared.clone() },
            Compared { predictions: 0, ..good.compared.clone() },
        ] {
            assert!(fails(&Measured { compared, ..good.clone() }, 10));
        }
    }
}
