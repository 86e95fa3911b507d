package sandbox

import (
	"errors"

	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// keep drops all capabilities but the wanted ones, of those that the process
// has. If it may, it drops them from the bounding set as well, from which a
// process of user 0 gets capabilities whenever it executes a program.
func keep(wanted []cap.Value) error {
	had, kept := cap.GetProc(), cap.NewSet()
	for _, value := range wanted {
		has, err := had.GetFlag(cap.Permitted, value)
		if err = errors.Join(err, kept.SetFlag(cap.Permitted, has, value), kept.SetFlag(cap.Effective, has, value)); err != nil {
			return err
		}
	}
	if may, _ := had.GetFlag(cap.Effective, cap.SETPCAP); may {
		for value := range cap.MaxBits() {
			if stays, _ := kept.GetFlag(cap.Permitted, value); stays {
				continue
			}
			if err := cap.DropBound(value); err != nil {
				return err
			}
		}
	}
	return kept.SetProc()
}
