//! `cardmon diagnose`: asks the monitor that runs what it weighed of a card or a service, and what
//! would tell more.

use crate::ask::Service;
use crate::page;
use monitor::status::{AssessmentFigures, CardStatus, FunctionFigures, ServiceStatus, Status};
use monitor::text;
use serde_json::{Value, json};
use std::process::ExitCode;

pub(crate) const HELP: &str = "\
Each hypothesis is shown with how likely it is, and each piece of evidence with its weight for
that hypothesis against all others, in nats: 3 makes it twenty times as likely, -3 as unlikely.
`no` before a code means that it was looked for, and was not there. What is out of the question
is so whatever speaks for it. Who is less than 80 % sure says so, and names the test that tells
most for what it costs.

Exit status:
  0  shown is what the monitor weighed
  1  no monitor answers, or it does not know of this name
  2  the command line was wrong";

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Address of a card, e.g. pci:0000:3b:00.0, or the name of a service.
    #[arg(value_name = "CARD|SERVICE")]
    name: String,
    /// Print only what to find out next, and how.
    #[arg(long)]
    next_test: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    service: Service,
}

/// What is asked about.
pub(crate) enum Subject<'a> {
    Card(&'a CardStatus),
    /// A card of which no owner publishes a page.
    Function(&'a FunctionFigures),
    Service(&'a ServiceStatus),
}

pub(crate) fn diagnose(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let status = arguments.service.ask()?;
    let subject = found(&status, &arguments.name)?;
    let assessment = subject.assessment();
    match (arguments.json, arguments.next_test) {
        (true, true) => {
            let first =
                assessment.and_then(|it| it.next_test.as_ref().or_else(|| it.tests.first()));
            page::json(&first)?;
        }
        (true, false) => page::json(&subject.json())?,
        (false, true) => page::print(&[text::next_test(assessment)])?,
        (false, false) => page::print(&subject.lines())?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The card or service of that name.
pub(crate) fn found<'a>(status: &'a Status, name: &str) -> anyhow::Result<Subject<'a>> {
    if let Some(card) = status.cards.iter().find(|card| card.card == name) {
        return Ok(Subject::Card(card));
    }
    if let Some(card) = status.without_pages().find(|card| card.card == name) {
        return Ok(Subject::Function(card));
    }
    if let Some(service) = status.services.iter().find(|it| it.service == name) {
        return Ok(Subject::Service(service));
    }
    let cards = status.cards_by_name();
    let names = cards.chain(status.services.iter().map(|it| &*it.service));
    let names: Vec<_> = names.map(text::clean).collect();
    let known = match names.is_empty() {
        true => "nothing is".to_owned(),
        false => names.join(", "),
    };
    anyhow::bail!("{} is not watched; watched: {known}", text::clean(name))
}

impl Subject<'_> {
    fn assessment(&self) -> Option<&AssessmentFigures> {
        match self {
            Self::Card(card) => card.assessment.as_ref(),
            Self::Function(card) => card.assessment.as_ref(),
            Self::Service(service) => service.assessment.as_ref(),
        }
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        match self {
            Self::Card(card) => text::card_diagnosis(card),
            Self::Function(card) => text::function_diagnosis(card),
            Self::Service(service) => text::service_diagnosis(service),
        }
    }

    fn json(&self) -> Value {
        match self {
            Self::Card(card) => json!({
                "card": card.card,
                "state": card.state,
                "cause": card.cause,
                "for_seconds": card.for_seconds,
                "evidence": card.evidence,
                "advice": card.advice,
                "drained": card.drained,
                "assessment": card.assessment,
            }),
            Self::Function(card) => json!({
                "card": card.card,
                "cause": card.cause,
                "evidence": card.evidence,
                "advice": card.advice,
                "drained": card.drained,
                "assessment": card.assessment,
            }),
            Self::Service(service) => json!({
                "service": service.service,
                "standing": service.standing,
                "cause": service.cause,
                "for_seconds": service.for_seconds,
                "evidence": service.evidence,
                "advice": service.advice,
                "assessment": service.assessment,
            }),
        }
    }
}
