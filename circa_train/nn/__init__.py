"""Networks, and where they meet faults: the stochastic activation, the conversion, and the plain models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from circa_train.lazy import face

if TYPE_CHECKING:
    from circa_train.nn.activation import StochasticReLU, raise_pending
    from circa_train.nn.calibration import fit_frac_bits
    from circa_train.nn.control import (
        described_frac_bits,
        draw_state,
        evaluating,
        fault_buffer_names,
        faulty_relus,
        frac_bits_by_site,
        load_draw_state,
        set_draw,
        set_faults,
        set_frac_bits,
        set_specs,
        site_inputs,
        specs_by_site,
        stochastic_relus,
        without_faults,
    )
    from circa_train.nn.convert import with_exact_relus, with_stochastic_relus
    from circa_train.nn.folding import with_folded_batch_norms
    from circa_train.nn.models.own import check_name
    from circa_train.nn.models.registry import build_model, translate_keys
    from circa_train.nn.module_tree import module_at, put_module
    from circa_train.nn.observation import expect, magnitudes, observe
    from circa_train.nn.rescaled import RescaledReLU
    from circa_train.nn.scales import fit_scales
    from circa_train.nn.sites import relu_sites
    from circa_train.nn.tracing.in_place import redirect_in_place
    from circa_train.nn.tracing.relu_calls import relu_calls
    from circa_train.nn.tracing.trace import trace

__all__ = [
    "RescaledReLU",
    "StochasticReLU",
    "build_model",
    "check_name",
    "described_frac_bits",
    "draw_state",
    "evaluating",
    "expect",
    "fault_buffer_names",
    "faulty_relus",
    "fit_frac_bits",
    "fit_scales",
    "frac_bits_by_site",
    "load_draw_state",
    "magnitudes",
    "module_at",
    "observe",
    "put_module",
    "raise_pending",
    "redirect_in_place",
    "relu_calls",
    "relu_sites",
    "set_draw",
    "set_faults",
    "set_frac_bits",
    "set_specs",
    "site_inputs",
    "specs_by_site",
    "stochastic_relus",
    "trace",
    "translate_keys",
    "with_exact_relus",
    "with_folded_batch_norms",
    "with_stochastic_relus",
    "without_faults",
]

__getattr__, __dir__ = face(
    __name__,
    {
        "RescaledReLU": "rescaled",
        "StochasticReLU": "activation",
        "build_model": "models.registry",
        "check_name": "models.own",
        "described_frac_bits": "control",
        "draw_state": "control",
        "evaluating": "control",
        "expect": "observation",
        "fault_buffer_names": "control",
        "faulty_relus": "control",
        "fit_frac_bits": "calibration",
        "fit_scales": "scales",
        "frac_bits_by_site": "control",
        "load_draw_state": "control",
        "magnitudes": "observation",
        "module_at": "module_tree",
        "observe": "observation",
        "put_module": "module_tree",
        "raise_pending": "activation",
        "redirect_in_place": "tracing.in_place",
        "relu_calls": "tracing.relu_calls",
        "relu_sites": "sites",
        "set_draw": "control",
        "set_faults": "control",
        "set_frac_bits": "control",
        "set_specs": "control",
        "site_inputs": "control",
        "specs_by_site": "control",
        "stochastic_relus": "control",
        "trace": "tracing.trace",
        "translate_keys": "models.registry",
        "with_exact_relus": "convert",
        "with_folded_batch_norms": "folding",
        "with_stochastic_relus": "convert",
        "without_faults": "control",
    },
)
