# SPDX-License-Identifier: Apache-2.0
"""The models that are measured, one file each with a function ``build(case, **options)`` that returns the work to do.

Peers are imported from their own, unmodified checkouts; their requirements come from a folder of old packages that only
their process sees.
"""
