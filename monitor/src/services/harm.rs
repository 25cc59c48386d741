//! Who suffers from others: a service that is away while another leaks what it needs, or while
//! processes are killed for want of memory, is a victim, and not at fault for being away.

use crate::incident::Harm;
use crate::status::{HostFigures, ServiceStatus, Standing, VictimOf};
use crate::verdict::Cause;

/// The code of what cannot be had any more.
const CANNOT_SPAWN: u8 = 6;

/// How a service was harmed by others, or cannot help but be by itself, if it is.
pub(crate) fn harm(
    service: &ServiceStatus,
    services: &[ServiceStatus],
    host: Option<&HostFigures>,
) -> Option<Harm> {
    let is_away = matches!(service.standing, Standing::Gone | Standing::Refused);
    let was_killed = host.is_some_and(|it| it.oom_kills > 0 && it.codes.contains(&CANNOT_SPAWN));
    match () {
        () if is_away && was_killed => Some(Harm::OomKilled),
        () if is_away && leaks_beside(service, services).is_some() => Some(Harm::CouldNotStart),
        () if service.codes.contains(&CANNOT_SPAWN) => Some(Harm::NoDescriptors),
        () => None,
    }
}

/// Whose victim a service is, if it is one and what it has is not its own doing.
pub(crate) fn victim(
    service: &ServiceStatus,
    services: &[ServiceStatus],
    host: Option<&HostFigures>,
) -> Option<VictimOf> {
    let harm = harm(service, services, host)?;
    matches!(harm, Harm::OomKilled | Harm::CouldNotStart).then(|| VictimOf {
        harm,
        of: leaks_beside(service, services).map(|it| it.service.clone()),
    })
}

/// Whether a service takes more and more.
pub(crate) fn leaks(service: &ServiceStatus) -> bool {
    service.cause == Cause::ServiceLeak
}

fn leaks_beside<'a>(
    service: &ServiceStatus,
    services: &'a [ServiceStatus],
) -> Option<&'a ServiceStatus> {
    let mut others = services.iter().filter(|it| it.service != service.service);
    others.find(|it| leaks(it))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::Evidence;
    use crate::watch::{Settings, Watch};
    use hwshim::clock::Instant;

    /// A host with two services, of which one is away.
    fn status() -> crate::status::Status {
        let tree = tempfile::tempdir().unwrap();
        let named = |name: &str| {
            let process = crate::probe::Whereabouts::PidFile(tree.path().join(name));
            crate::services::ServiceSettings::new(name, process)
        };
        let mut watch = Watch::new(Settings {
            services: vec![named("hardserver"), named("web")],
            ..Settings::of(tree.path(), tree.path())
        });
        let mut status = watch.poll(Instant::ORIGIN).status;
        for service in &mut status.services {
            (service.standing, service.cause) = (Standing::Answers, Cause::None);
            service.codes.clear();
            service.evidence.clear();
            // Neither has a process: how sure the monitor is of that depends on how busy its host is.
            service.assessment = None;
        }
        let web = &mut status.services[1];
        (web.standing, web.cause) = (Standing::Gone, Cause::ServiceGone);
        web.evidence.push(Evidence {
            code: "process-gone".into(),
            detail: "/proc/7 does not exist".to_owned(),
        });
        let host = status.host.as_mut().unwrap();
        (host.oom_kills, host.codes) = (0, Vec::new());
        status
    }

    fn of(status: &crate::status::Status) -> Vec<Option<VictimOf>> {
        let host = status.host.as_ref();
        let services = status.services.iter();
        services
            .map(|it| victim(it, &status.services, host))
            .collect()
    }

    #[test]
    fn who_is_away_while_another_leaks_or_memory_wants_is_a_victim_and_of_whom_is_known() {
        let mut status = status();
        assert_eq!(of(&status), [None, None]);
        let host = status.host.as_mut().unwrap();
        (host.oom_kills, host.codes) = (1, vec![CANNOT_SPAWN]);
        let killed = |of: Option<&str>| VictimOf {
            harm: Harm::OomKilled,
            of: of.map(str::to_owned),
        };
        assert_eq!(of(&status), [None, Some(killed(None))]);
        status.services[0].cause = Cause::ServiceLeak;
        assert_eq!(of(&status), [None, Some(killed(Some("hardserver")))]);
        status.host.as_mut().unwrap().codes.clear();
        let harm = of(&status)[1].as_ref().unwrap().harm;
        assert_eq!(harm, Harm::CouldNotStart);
        // Who has used up its own descriptors is nobody's victim.
        status.services[0].codes = vec![CANNOT_SPAWN];
        assert_eq!(of(&status)[0], None);
    }

    #[test]
    fn the_line_of_a_victim_says_whose_it_is_and_blames_it_for_nothing() {
        let mut status = status();
        let text = |status: &crate::status::Status| crate::text::block(status).join("\n");
        assert!(text(&status).contains("service-gone"), "{}", text(&status));
        status.services[0].cause = Cause::ServiceLeak;
        status.services[1].victim = of(&status)[1].clone();
        let shown = text(&status);
        assert!(
            shown.contains("victim of hardserver, which leaks: could not start"),
            "{shown}"
        );
        assert!(!shown.contains("service-gone"), "{shown}");
        let diagnosed = crate::text::service_diagnosis(&status.services[1]).join("\n");
        assert!(
            diagnosed.starts_with("web: gone (victim) since"),
            "{diagnosed}"
        );
        assert!(diagnosed.contains("does not blame it"), "{diagnosed}");
    }
}
