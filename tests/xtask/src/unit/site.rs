//! What a site has beside the monitor: a card with its owner, and a host service, each of a user of its own.
//! What they do is not judged.

use super::machine::Machine;

pub(super) const CARD: &str = "vfio-user:/run/card/card.sock";
const CARD_SERVICE: &str = "[Service]
User=card
RuntimeDirectory=card
ExecStart=/usr/local/bin/firmware-sim run --socket /run/card/card.sock
";
const OWNER_SERVICE: &str = "[Service]
ExecStart=/usr/local/bin/hwshim serve --check-interval 5s --card vfio-user:/run/card/card.sock
";
/// A host service of another user, whose socket is for its group.
const HARDSERVER_SERVICE: &str = "[Service]
User=hardserver
RuntimeDirectory=hardserver
ExecStart=/opt/hardserver service --socket /run/hardserver/service.sock --card vfio-user:/run/card/card.sock
";
/// What the comments of the unit have a site add for such a service, and for snapshots elsewhere. And what
/// the filter of system calls refuses kills here: refused politely, nobody would hear of it.
const DROP_IN: &str = "[Service]
ExecStart=
ExecStart=/usr/local/bin/cardmon run --config /etc/cardmon.toml
SupplementaryGroups=hardserver
ReadWritePaths=/backup
SystemCallErrorNumber=kill
";
const CONFIG: &str = "[history]
anchors = '/var/log/cardmon/anchors'
[[service]]
name = 'hardserver'
process = 'hardserver'
socket = '/run/hardserver/service.sock'
";

/// Starts a card and its owner.
pub(super) fn add_card(machine: &Machine) -> anyhow::Result<()> {
    machine.add_unit("card.service", CARD_SERVICE)?;
    machine.add_unit("owner.service", OWNER_SERVICE)?;
    machine.told(&["systemctl", "start", "card.service", "owner.service"])?;
    Ok(())
}

/// Starts a host service, and the monitor again with all that it takes to watch it.
pub(super) fn add_service(machine: &Machine) -> anyhow::Result<()> {
    machine.told(&["ln", "-s", "/usr/local/bin/firmware-sim", "/opt/hardserver"])?;
    machine.add_unit("hardserver.service", HARDSERVER_SERVICE)?;
    machine.told(&["systemctl", "start", "hardserver.service"])?;
    machine.write("/etc/cardmon.toml", CONFIG)?;
    machine.add_unit("cardmon.service.d/site.conf", DROP_IN)?;
    machine.told(&["systemctl", "restart", "cardmon.service"])?;
    Ok(())
}
