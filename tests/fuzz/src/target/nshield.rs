//! What `stattree` and `enquiry` print, or whoever answers in their stead.

use super::assert_harmless;
use monitor::probe::{Enquiry, Statistics};

pub(crate) fn run(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    match Statistics::parse(&text) {
        Ok(statistics) => {
            for module in statistics.modules.values() {
                let _ = module.outstanding();
                let measured = module.temperatures.iter().chain(&module.voltages);
                measured.for_each(|measured| assert_harmless(&measured.name));
                module
                    .serial_number
                    .iter()
                    .for_each(|text| assert_harmless(text));
            }
        }
        Err(error) => assert_harmless(&error.to_string()),
    }
    match Enquiry::parse(&text) {
        Ok(enquiry) => {
            for module in enquiry.server.iter().chain(enquiry.modules.values()) {
                let said = [&module.mode, &module.version, &module.hardware_status];
                said.into_iter()
                    .flatten()
                    .for_each(|text| assert_harmless(text));
            }
        }
        Err(error) => assert_harmless(&error.to_string()),
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    [
        "+ServerGlobals:\n   -CmdCount             40\n   -ReplyCount           36\n+Connections:\n\
        \x20  +#4:\n      -CmdCount             13\n+PerModule:\n   +#1:\n      +ModuleEnvStats:\n\
        \x20        -SerialNumber         SIM-7\n         -CurrentCPUTemp1      53.50\n\
        \x20        -CPUVoltage1          1.00\n      +ModuleJobStats:\n\
        \x20        -CmdCount             20\n         -ReplyCount           17\n",
        "Server:\n serial number        SIM-7\n mode                 operational\nModule #1:\n\
        \x20hardware status      SOS-B1\n mode                 failed\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}
