//! The table.

use std::fmt;

use serde_json::json;

/// What a figure has to be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    /// At least `must`, if possible `aim`.
    AtLeast { must: f64, aim: f64 },
    /// At most `must`, if possible `aim`.
    AtMost { must: f64, aim: f64 },
    /// Only reported.
    None,
}

#[derive(Debug)]
struct Row {
    case: String,
    unit: &'static str,
    target: Target,
    measured: f64,
    detail: String,
}

impl Row {
    fn verdict(&self) -> &'static str {
        let at_least = |x: f64| self.measured >= x;
        // A figure is as good as it is printed.
        let at_most = |x: f64| self.measured <= x + 0.005;
        match self.target {
            Target::AtLeast { aim, .. } if at_least(aim) => "aim",
            Target::AtLeast { must, .. } if at_least(must) => "pass",
            Target::AtMost { aim, .. } if at_most(aim) => "aim",
            Target::AtMost { must, .. } if at_most(must) => "pass",
            Target::None => "",
            _ => "MISS",
        }
    }

    fn bounds(&self) -> Option<(f64, f64)> {
        match self.target {
            Target::AtLeast { must, aim } | Target::AtMost { must, aim } => Some((must, aim)),
            Target::None => None,
        }
    }
}

/// Speeds of whole epochs, as ratios to one memcpy.
#[derive(Debug)]
struct Epochs {
    data: &'static str,
    stored_as: &'static str,
    one_worker: f64,
    two_workers: f64,
    two_windowed: f64,
    two_memcpys: f64,
}

/// All rows.
#[derive(Debug, Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
    epochs: Vec<Epochs>,
}

impl Report {
    /// Adds a row: what is measured, its unit ("" for a ratio), and what lies behind it.
    pub(crate) fn add(
        &mut self,
        case: impl Into<String>,
        unit: &'static str,
        target: Target,
        measured: f64,
        detail: impl Into<String>,
    ) {
        let row = Row {
            case: case.into(),
            unit,
            target,
            measured,
            detail: detail.into(),
        };
        self.rows.push(row);
    }

    /// Adds what epochs of some data reach: one worker, two, two with the windowed shuffle, and two memcpys, all as
    /// ratios to one memcpy.
    pub(crate) fn epochs(
        &mut self,
        data: &'static str,
        stored_as: &'static str,
        [one_worker, two_workers, two_windowed, two_memcpys]: [f64; 4],
    ) {
        self.epochs.push(Epochs {
            data,
            stored_as,
            one_worker,
            two_workers,
            two_windowed,
            two_memcpys,
        });
    }

    pub(crate) fn json(&self) -> String {
        let rows: Vec<_> = self
            .rows
            .iter()
            .map(|row| {
                let (must, aim) = row.bounds().unzip();
                json!({
                    "case": row.case,
                    "unit": row.unit,
                    "must": must,
                    "aim": aim,
                    "measured": row.measured,
                    "verdict": row.verdict(),
                    "detail": row.detail,
                })
            })
            .collect();
        let epochs: Vec<_> = self
            .epochs
            .iter()
            .map(|epochs| {
                json!({
                    "data": epochs.data,
                    "stored_as": epochs.stored_as,
                    "one_worker": epochs.one_worker,
                    "two_workers": epochs.two_workers,
                    "two_windowed": epochs.two_windowed,
                    "two_memcpys": epochs.two_memcpys,
                })
            })
            .collect();
        json!({ "rows": rows, "epochs": epochs }).to_string()
    }
}

/// Three significant figures, or what fits a table.
fn number(x: f64) -> String {
    match x.abs() {
        0.0..0.005 => "0".to_owned(),
        0.0..100.0 => format!("{x:.2}"),
        100.0..1e6 => format!("{x:.0}"),
        _ => format!("{x:.2e}"),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| case | must | aim | measured | | detail |")?;
        writeln!(f, "|---|---|---|---|---|---|")?;
        for row in &self.rows {
            let (must, aim) = match row.bounds() {
                Some((must, aim)) => (number(must), number(aim)),
                None => ("-".to_owned(), "-".to_owned()),
            };
            let unit = if row.unit.is_empty() { "" } else { " " };
            writeln!(
                f,
                "| {} | {must} | {aim} | {}{unit}{} | {} | {} |",
                row.case,
                number(row.measured),
                row.unit,
                row.verdict(),
                row.detail
            )?;
        }
        if self.epochs.is_empty() {
            return Ok(());
        }
        writeln!(
            f,
            "\n| data | stored as | 1 worker | 2 workers | 2 workers, windowed shuffle | two memcpys |"
        )?;
        writeln!(f, "|---|---|---|---|---|---|")?;
        for epochs in &self.epochs {
            writeln!(
                f,
                "| {} | {} | {:.2} | {:.2} | {:.2} | {:.2} |",
                epochs.data,
                epochs.stored_as,
                epochs.one_worker,
                epochs.two_workers,
                epochs.two_windowed,
                epochs.two_memcpys
            )?;
        }
        Ok(())
    }
}
