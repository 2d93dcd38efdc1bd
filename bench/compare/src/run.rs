//! `run`: rounds in which every contender has its turn, cell by cell.
//!
//! ```text
//!  cell  round 1:  A B C D      the order turns by a part of the circle each round,
//!        round 2:  D C B A      and every other round goes the other way around,
//!        round 3:  C D A B      so nobody always follows the same neighbour
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use harness::Result;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::contender::Contender;
use crate::machine::{self, Machine};
use crate::measure::{Bench, Task, half_of_the_slowest};
use crate::metrics::Figures;
use crate::results::{Line, Measured, Outcome, Run, Writer};
use crate::scenario::{Cell, Load, Plan};

/// Who fails so often in a cell is not asked again.
const FAILURES: usize = 2;

/// How long each contender's closed loop runs to find an open loop's rate.
const CALIBRATION: Duration = Duration::from_millis(500);

/// What a run measures and where it writes.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) bench: Bench,
    /// The folder `bench`.
    pub(crate) folder: PathBuf,
    pub(crate) contenders: Vec<Contender>,
    pub(crate) plans: Vec<Plan>,
    pub(crate) quick: bool,
    pub(crate) results: PathBuf,
}

/// Measures everything; false if a measurement failed. What a contender does not offer is no failure.
pub(crate) fn run(session: &Session) -> Result<bool> {
    session.bench.check()?;
    let contenders = present(session)?;
    let mut progress = Progress::new(session, &contenders);
    if let Some(warning) = machine::busy() {
        progress.say(&warning);
    }
    let run = describe(session, &contenders)?;
    let mut recorder = Recorder {
        writer: Writer::open(&session.results)?,
        run: run.began.clone(),
        failures: 0,
    };
    recorder.writer.add(&Line::Run(run))?;
    for plan in &session.plans {
        let mut able: Vec<&Contender> = contenders
            .iter()
            .filter(|it| it.does(plan.scenario.load))
            .collect();
        for &(cell, measured) in &plan.cells {
            Rounds {
                session,
                plan,
                cell,
                measured,
            }
            .run(&mut able, &mut recorder, &mut progress)?;
        }
    }
    progress.finish();
    if recorder.failures > 0 {
        let count = recorder.failures;
        eprintln!("{count} measurements failed: they are named above, and in the file of results");
    }
    Ok(recorder.failures == 0)
}

/// The contenders whose programs are there; the others are named.
fn present(session: &Session) -> Result<Vec<Contender>> {
    let is_there = |contender: &&Contender| contender.path(&session.bench.programs).is_file();
    for missing in session
        .contenders
        .iter()
        .filter(|contender| !is_there(contender))
    {
        let path = missing.path(&session.bench.programs);
        eprintln!(
            "left out: {}: there is no {}: {}",
            missing.name,
            path.display(),
            missing.remedy()
        );
    }
    let present: Vec<Contender> = session
        .contenders
        .iter()
        .filter(is_there)
        .cloned()
        .collect();
    if present.is_empty() {
        return Err("there is no contender to measure".into());
    }
    Ok(present)
}

fn describe(session: &Session, contenders: &[Contender]) -> Result<Run> {
    let version = |it: &Contender| Some((it.name.clone(), it.version(&session.folder)?));
    Ok(Run {
        began: machine::now(),
        quick: session.quick,
        machine: Machine::this(&session.folder, &session.bench.kolk)?,
        versions: contenders.iter().filter_map(version).collect(),
    })
}

/// Writes what was measured.
struct Recorder {
    writer: Writer,
    run: String,
    failures: usize,
}

/// All rounds of one cell.
#[derive(Clone, Copy)]
struct Rounds<'a> {
    session: &'a Session,
    plan: &'a Plan,
    cell: Cell,
    measured: Duration,
}

impl Rounds<'_> {
    /// Who says that it cannot do this is not in `able` afterwards.
    fn run(
        self,
        able: &mut Vec<&Contender>,
        recorder: &mut Recorder,
        progress: &mut Progress,
    ) -> Result<()> {
        let rate = match self.plan.scenario.load {
            Load::Rate => self.calibrate(able, progress)?,
            _ => None,
        };
        let mut failures: BTreeMap<&str, usize> = BTreeMap::new();
        for round in 1..=self.plan.rounds {
            for place in order(able.len(), round, self.plan.rounds) {
                let contender = able[place];
                if failures
                    .get(contender.name.as_str())
                    .is_some_and(|&count| count >= FAILURES)
                {
                    progress.advance(self.plan.estimate(self.cell, self.measured));
                    continue;
                }
                let outcome = self.measure(contender, self.measured, rate, progress)?;
                if let Outcome::Failed(why) = &outcome {
                    *failures.entry(&contender.name).or_default() += 1;
                    recorder.failures += 1;
                    progress.say(&format!(
                        "{} {}: {}: {why}",
                        self.name(),
                        self.cell,
                        contender.name
                    ));
                }
                recorder.writer.add(&Line::Measured(Measured {
                    run: recorder.run.clone(),
                    scenario: self.name().to_owned(),
                    cell: self.cell.to_string(),
                    round,
                    contender: contender.name.clone(),
                    seconds: self.measured.as_secs_f64(),
                    rate,
                    outcome: outcome.clone(),
                }))?;
                if let Outcome::Unsupported(why) = outcome {
                    progress.say(&format!(
                        "{}: {} does not do this: {why}",
                        self.name(),
                        contender.name
                    ));
                    failures.insert(&contender.name, FAILURES);
                }
            }
        }
        Ok(())
    }

    /// The rate that even the slowest keeps with half of its strength left.
    fn calibrate(self, able: &[&Contender], progress: &mut Progress) -> Result<Option<f64>> {
        let closed = Self {
            cell: Cell {
                depth: 1,
                ..self.cell
            },
            ..self
        };
        let mut capacities: Vec<Figures> = Vec::new();
        for contender in able {
            if let Outcome::Figures(figures) =
                closed.measure(contender, CALIBRATION, None, progress)?
            {
                capacities.push(figures);
            }
        }
        let rate = half_of_the_slowest(&capacities);
        if let Some(rate) = rate {
            progress.say(&format!("{} {}: {rate} messages/s", self.name(), self.cell));
        }
        Ok(rate)
    }

    fn measure(
        self,
        contender: &Contender,
        measured: Duration,
        rate: Option<f64>,
        progress: &mut Progress,
    ) -> Result<Outcome> {
        progress.show(&format!(
            "{} {}: {}",
            self.name(),
            self.cell,
            contender.name
        ));
        let load = self.plan.scenario.load;
        let task = Task {
            contender,
            load,
            cell: self.cell,
            measured,
            rate,
        };
        let outcome = self.session.bench.measure(task)?;
        if let Outcome::Figures(figures) = &outcome {
            progress.tell(&line(self, contender, figures));
        }
        progress.advance(self.plan.estimate(self.cell, self.measured));
        Ok(outcome)
    }

    fn name(&self) -> &str {
        &self.plan.scenario.name
    }
}

/// One measurement on one line.
fn line(rounds: Rounds<'_>, contender: &Contender, figures: &Figures) -> String {
    let metrics = rounds.plan.scenario.load.metrics();
    let told = metrics
        .iter()
        .filter_map(|metric| Some((metric.title, figures.get(metric.key)?)));
    let told: Vec<String> = told
        .map(|(title, value)| format!("{title} {value:.2}"))
        .collect();
    format!(
        "{:<9} {:<18} {:<13} {}",
        rounds.name(),
        rounds.cell,
        contender.name,
        told.join("  ")
    )
}

/// The places of a round, from 1: a turned circle, backwards every other time.
fn order(contenders: usize, round: u32, rounds: u32) -> Vec<usize> {
    let mut places: Vec<usize> = (0..contenders).collect();
    if contenders > 0 {
        let turn = (round as usize - 1) * contenders.div_ceil(rounds as usize);
        places.rotate_left(turn % contenders);
    }
    if round.is_multiple_of(2) {
        places.reverse();
    }
    places
}

/// A bar with the time that is left; on what is no terminal, a line for each measurement.
struct Progress {
    bar: ProgressBar,
    began: Instant,
}

impl Progress {
    fn new(session: &Session, contenders: &[Contender]) -> Self {
        let all: Duration = session
            .plans
            .iter()
            .map(|plan| plan.estimate_all(contenders))
            .sum();
        let length = all.as_millis() as u64;
        let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{bar:30} {percent:>3} %  {eta} left  {msg}");
        // The template is a constant of this program; a bad one leaves the plain bar.
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        let progress = Self {
            bar,
            began: Instant::now(),
        };
        progress.say(&format!("about {:.1} minutes", all.as_secs_f64() / 60.0));
        progress
    }

    fn show(&self, what: &str) {
        self.bar.set_message(what.to_owned());
    }

    /// A line that stays.
    fn say(&self, line: &str) {
        self.bar.suspend(|| eprintln!("{line}"));
    }

    /// A line for those who see no bar.
    fn tell(&self, line: &str) {
        if self.bar.is_hidden() {
            eprintln!("{line}");
        }
    }

    fn advance(&mut self, estimated: Duration) {
        self.bar.inc(estimated.as_millis() as u64);
    }

    fn finish(self) {
        self.bar.finish_and_clear();
        eprintln!(
            "measured in {:.1} minutes",
            self.began.elapsed().as_secs_f64() / 60.0
        );
    }
}

/// Prints what there is to measure, and how long that takes.
pub(crate) fn list(plans: &[Plan], contenders: &[Contender], programs: &Path) {
    println!("contenders");
    for contender in contenders {
        let there = if contender.path(programs).is_file() {
            "there"
        } else {
            contender.remedy()
        };
        println!("  {:<14} {:<24} {there}", contender.name, contender.title);
    }
    for plan in plans {
        let scenario = &plan.scenario;
        println!("\n{:<10} {}", scenario.name, scenario.title);
        for cell in scenario.cells() {
            let mark = if scenario.is_default(cell) { "*" } else { " " };
            println!("  {mark} {cell}");
        }
    }
    let all: Duration = plans.iter().map(|plan| plan.estimate_all(contenders)).sum();
    println!(
        "\n* what a run measures by itself: about {:.0} minutes",
        all.as_secs_f64() / 60.0
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_has_one_turn_a_round_and_nobody_always_the_same_place_or_neighbour() {
        for (contenders, rounds) in [(1, 1), (3, 5), (14, 5), (14, 1), (5, 20)] {
            for round in 1..=rounds {
                let mut places = order(contenders, round, rounds);
                places.sort_unstable();
                assert_eq!(places, (0..contenders).collect::<Vec<_>>());
            }
        }
        let first: Vec<usize> = (1..=5).map(|round| order(14, round, 5)[0]).collect();
        assert!(first.windows(2).all(|pair| pair[0] != pair[1]), "{first:?}");
        let before_1 = |round| {
            let places = order(14, round, 5);
            let at = places.iter().position(|&place| place == 1).unwrap();
            (at > 0).then(|| places[at - 1])
        };
        assert_ne!(before_1(1), before_1(2));
    }

    #[test]
    fn nobody_to_measure_has_no_order() {
        assert!(order(0, 1, 5).is_empty());
    }
}
