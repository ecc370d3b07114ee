//! Tables of text for people.

use tensorshard::FieldReport;

use super::size;

/// Rows of cells, under a header.
#[derive(Debug)]
pub(crate) struct Table {
    /// True: the column holds numbers, and is aligned to the right.
    numeric: Vec<bool>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headers; those that start with `>` are over numbers.
    pub(crate) fn new(headers: &[&str]) -> Self {
        let numeric = headers
            .iter()
            .map(|header| header.starts_with('>'))
            .collect();
        let names = headers
            .iter()
            .map(|header| header.trim_start_matches('>').to_owned())
            .collect();
        Self {
            numeric,
            rows: vec![names],
        }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// One line a row, columns aligned, each line ended.
    pub(crate) fn render(&self) -> String {
        let width = |column: usize| {
            self.rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.numeric.len()).map(width).collect();
        let mut out = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for ((cell, &width), &numeric) in row.iter().zip(&widths).zip(&self.numeric) {
                if numeric {
                    line.push_str(&format!("{cell:>width$}  "));
                } else {
                    line.push_str(&format!("{cell:<width$}  "));
                }
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }
}

/// One row a field: sizes, ratio and measured error.
pub(crate) fn fields(reports: &[FieldReport]) -> String {
    let mut table = Table::new(&[
        "field",
        "values",
        "encoding",
        ">raw",
        ">stored",
        ">ratio",
        ">max abs error",
        ">SNR dB",
    ]);
    for report in reports {
        let (error, snr) = match &report.error {
            None => ("0".to_owned(), "lossless".to_owned()),
            Some(error) if error.count == 0 => ("-".to_owned(), "-".to_owned()),
            Some(error) => (
                if error.max_abs_error == 0.0 {
                    "0".to_owned()
                } else {
                    format!("{:.3e}", error.max_abs_error)
                },
                if error.rmse == 0.0 {
                    "inf".to_owned()
                } else {
                    format!("{:.1}", error.snr_db())
                },
            ),
        };
        table.row([
            report.name.clone(),
            report.description.clone(),
            report.encoding.clone(),
            size::bytes(report.raw_bytes),
            size::bytes(report.stored_bytes),
            format!("{:.2}", size::ratio(report.raw_bytes, report.stored_bytes)),
            error,
            snr,
        ]);
    }
    table.render()
}

/// The same for programs.
pub(crate) fn field_json(report: &FieldReport) -> serde_json::Value {
    // An infinite SNR has no JSON number: null.
    let error = report.error.as_ref().filter(|error| error.count > 0);
    serde_json::json!({
        "name": report.name,
        "description": report.description,
        "encoding": report.encoding,
        "raw_bytes": report.raw_bytes,
        "stored_bytes": report.stored_bytes,
        "ratio": size::ratio(report.raw_bytes, report.stored_bytes),
        "lossy": report.error.is_some(),
        "max_abs_error": error.map_or(0.0, |error| error.max_abs_error),
        "rmse": error.map_or(0.0, |error| error.rmse),
        "non_finite": report.error.as_ref().map_or(0, |error| error.non_finite),
        "snr_db": error.map(|error| error.snr_db()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(&["a", ">n"]);
        table.row(["long".to_owned(), "1".to_owned()]);
        table.row(["b".to_owned(), "100".to_owned()]);
        assert_eq!(table.render(), "a       n\nlong    1\nb     100\n");
    }
}
