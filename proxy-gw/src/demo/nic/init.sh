#!/bin/busybox sh
# The guest's first process: hands every network card to vfio-pci, runs the gateway on them and does
# what the host says on the second serial line. The first one is the console, the gateway's log
# included. What it answers is read by guest.rs.

/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
ip link set lo up

exec 3<>/dev/ttyS1
stty raw -echo <&3
echo "up" >&3

depmod
modprobe vfio-pci
modprobe vfio_iommu_type1

for device in /sys/bus/pci/devices/*; do
  [ "$(cat "$device/class")" = 0x020000 ] || continue
  address=${device##*/}
  echo vfio-pci >"$device/driver_override"
  echo "$address" >/sys/bus/pci/drivers_probe
  driver=$(readlink "$device/driver")
  group=$(readlink "$device/iommu_group")
  echo "nic $address $(cat "$device/vendor"):$(cat "$device/device") ${driver##*/} ${group##*/}" >&3
done

# Its `ready` goes to the host as it is.
(
  sh -c 'echo $$ >/gateway.pid; exec /proxy-gw run -c /gateway.toml' >&3 3<&-
  echo "status $?" >&3
) &

while read -r word <&3; do
  case $word in
    metrics)
      wget -q -O - http://127.0.0.1:9180/metrics >&3
      echo "end" >&3
      ;;
    term) kill -TERM "$(cat /gateway.pid)" ;;
    off) poweroff -f ;;
  esac
done
poweroff -f
