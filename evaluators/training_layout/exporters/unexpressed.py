"""What a layout may ask for that no engine has an option for: methods of papers, a sentence each."""

from __future__ import annotations

from evaluators.training_layout.exporters.subject import Chosen

_OVERLAPS = {
    "t3": "T3 (arXiv:2401.16677) starts reduce-scatters from within the products before them, in hardware",
    "ladder": "Ladder Residual (arXiv:2501.06589) is another architecture, whose blocks do not wait for the one before",
    "co2": "CO2 (arXiv:2401.16265) sends gradients behind the next local steps",
    "fuyou": "Fuyou (arXiv:2403.06504) steps an offloaded optimizer behind the backward pass",
}


def unexpressed(chosen: Chosen, local_steps: bool = True) -> list[str]:
    """Sentences on what no engine can express.

    Args:
        local_steps: whether those are among it; an engine that has them says itself how.
    """
    found = []
    overlap = str(chosen.get("overlap", "standard"))
    if overlap != "standard":
        found.append(
            f"overlap={overlap}: {_OVERLAPS.get(overlap, 'a method of its own')}; written with the usual overlaps"
        )
    if float(chosen.get("sparsity", 0.0)) > 0.0:
        found.append(
            f"sparsity={chosen['sparsity']}: SAMO (arXiv:2302.05045) keeps states of unpruned weights only; written dense"
        )
    if local_steps and int(chosen["local_steps"]) > 1:
        found.append(
            f"local_steps={chosen['local_steps']}: DiLoCo (arXiv:2311.08105) wants a second optimizer around the loop; "
            "written as synchronised in every step"
        )
    if chosen.degree("cp") > 1 and chosen.context == "tokenring":
        found.append(
            "context=tokenring: TokenRing (arXiv:2412.20501) passes queries round; written as the engine's own way of "
            f"cp={chosen['cp']}"
        )
    if int(chosen["moe_pipeline"]) > 1:
        found.append(
            f"moe_pipeline={chosen['moe_pipeline']}: FSMoE (arXiv:2501.10714) cuts the tokens of a layer into parts"
        )
    if int(chosen.get("gradient_slices", 0)) > 0:
        found.append(
            f"gradient_slices={chosen['gradient_slices']}: FSMoE (arXiv:2501.10714) reduces them in gaps of its pipeline"
        )
    if chosen.get("length_groups", "static") == "dynamic":
        found.append(
            "length_groups=dynamic: ByteScale (arXiv:2502.21231) groups GPUs by the lengths of documents; written with the "
            f"same cp={chosen['cp']} for all"
        )
    if int(chosen.get("redundancy", 0)) > 0:
        found.append(
            f"redundancy={chosen['redundancy']}: gradient coding (Tandon et al., ICML 2017) repeats the work of stragglers; "
            "written without"
        )
    return found
