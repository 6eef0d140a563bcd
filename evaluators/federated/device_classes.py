"""Known devices and links. Each entry says what is published and what is assumed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class DeviceClass:
    """One kind of device.

    Attributes:
        name: by which a mix of devices asks for it.
        gflops: peak of float32, in 1e9 operations per second: cores x GHz x operations of a core per cycle.
        memory_gib: of the device.
        busy_w, idle_w: of the whole device without its radio, while it trains and while it waits.
        link: its usual link class.
        source: of the numbers.
    """

    name: str
    gflops: float
    memory_gib: float
    busy_w: float
    idle_w: float
    link: str
    source: str


@dataclass(frozen=True)
class LinkClass:
    """One kind of link between a device and the server.

    Attributes:
        name: by which it is asked for.
        down_mbit_s, up_mbit_s: throughput to and from the device, 1e6 bits per second.
        latency_ms: before the first byte of a transfer arrives.
        radio_w: what sending or receiving adds to the device's power.
        source: of the numbers.
    """

    name: str
    down_mbit_s: float
    up_mbit_s: float
    latency_ms: float
    radio_w: float
    source: str


# Jetsons: CUDA cores x GHz x 2; memory and clock of NVIDIA's module data sheets; busy is the largest power mode of these (of
# Xavier NX the 15 W one). Processors: cores x GHz x float32 operations per cycle, which are 8 for a Cortex-A72 (one fused
# multiply-add of 128 bits), 16 for a Cortex-A78, A710 or A715 (two), 32 for a Cortex-X3 (four) and for a Tiger Lake core (two
# of 256 bits). Phones count their performance cores alone, where training runs. What a device draws idle is never published
# alike, and is an assumption for all of them, as is the power of phones and of the laptop.
_DEVICES = (
    DeviceClass("jetson-nano", 128 * 0.9216 * 2, 4, 10.0, 1.5, "wifi",
                "NVIDIA Jetson Nano data sheet: 128 Maxwell cores at 921.6 MHz, 4 GB, 10 W mode; idle power assumed"),
    DeviceClass("jetson-tx2", 256 * 1.3 * 2, 8, 15.0, 2.5, "wifi",
                "NVIDIA Jetson TX2 data sheet: 256 Pascal cores at 1.30 GHz, 8 GB, 15 W mode; idle power assumed"),
    DeviceClass("jetson-xavier-nx", 384 * 1.1 * 2, 8, 15.0, 3.5, "wifi",
                "NVIDIA Jetson Xavier NX data sheet: 384 Volta cores at 1.1 GHz, 8 GB, 15 W mode; idle power assumed"),
    DeviceClass("jetson-agx-xavier", 512 * 1.377 * 2, 32, 30.0, 6.0, "wifi",
                "NVIDIA Jetson AGX Xavier data sheet: 512 Volta cores at 1.377 GHz, 32 GB, 30 W mode; idle power assumed"),
    DeviceClass("phone-mid", 2 * 2.2 * 16, 6, 3.0, 0.5, "lte",
                "Snapdragon 695 product brief: 2 Cortex-A78 class cores up to 2.2 GHz; memory and power assumed, display off"),
    DeviceClass("phone-flagship", 3.2 * 32 + 4 * 2.8 * 16, 12, 6.0, 0.6, "5g",
                "Snapdragon 8 Gen 2 product brief: one Cortex-X3 up to 3.2 GHz and 4 performance cores up to 2.8 GHz; memory "
                "and power assumed, display off"),
    DeviceClass("raspberry-pi-4", 4 * 1.5 * 8, 4, 6.4, 2.7, "wifi",
                "Raspberry Pi 4 Model B product brief: 4 Cortex-A72 cores at 1.5 GHz, 4 GB; power as reviews at its release "
                "measured it, with all cores busy and idle"),
    DeviceClass("laptop", 4 * 2.4 * 32, 16, 40.0, 6.0, "wifi",
                "Intel Core i5-1135G7 data sheet: 4 Tiger Lake cores at 2.4 GHz, the base frequency at 28 W; memory and the "
                "power of the whole laptop assumed"),
)  # fmt: skip

_LINKS = (
    LinkClass("lte", 13.0, 6.0, 70.0, 2.5,
              "medians of throughput and latency in Huang et al., MobiSys 2012 (4G LTE in the field); radio power between what "
              "their power model gives for 13 Mbit/s down (2.0 W) and 6 Mbit/s up (3.9 W)"),
    LinkClass("5g", 150.0, 25.0, 25.0, 3.0, "assumed, typical of speed tests of mid-band networks; radio power assumed"),
    LinkClass("wifi", 50.0, 20.0, 15.0, 1.0, "assumed, typical of a home network behind broadband; radio power assumed"),
    LinkClass("cable", 200.0, 20.0, 15.0, 0.5, "assumed, typical of a cable subscription; power of the port assumed"),
    LinkClass("ethernet", 1000.0, 1000.0, 0.5, 0.5,
              "the nominal rate of gigabit Ethernet to a server in the same building; latency and power of the port assumed"),
)  # fmt: skip

DEVICES: Mapping[str, DeviceClass] = MappingProxyType({device.name: device for device in _DEVICES})
LINKS: Mapping[str, LinkClass] = MappingProxyType({link.name: link for link in _LINKS})
GROUPS: Mapping[str, tuple[str, ...]] = MappingProxyType({
    "jetsons": ("jetson-nano", "jetson-tx2", "jetson-xavier-nx", "jetson-agx-xavier"),
    "phones": ("phone-mid", "phone-flagship"),
})  # fmt: skip
