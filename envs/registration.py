"""Gymnasium's names for the environments: `import envs.registration`, then `gymnasium.make("PulseBMS/Pack-v0", ...)`.

`gymnasium.make_vec(id, num_envs, vectorization_mode="vector_entry_point", ...)` makes the native batch. Kept apart from the
package: whoever only wants the reference plant needs no Gymnasium.
"""

from __future__ import annotations

import gymnasium

PACK_ID, SITE_ID = "PulseBMS/Pack-v0", "PulseBMS/Site-v0"
ENVIRONMENTS = {
    PACK_ID: ("envs.single:PackEnv", "envs.vector:PackVectorEnv"),
    SITE_ID: ("envs.single:SiteEnv", "envs.vector:SiteVectorEnv"),
}
for _id, (_single, _batched) in ENVIRONMENTS.items():
    if _id not in gymnasium.registry:
        gymnasium.register(_id, entry_point=_single, vector_entry_point=_batched)
